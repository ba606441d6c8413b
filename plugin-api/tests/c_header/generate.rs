//! Writes the native ABI down as a C header, from what abi_stable knows of its types.

use std::collections::BTreeMap;
use std::fmt::Write;

use alknet_plugin_api::API_VERSION;
use alknet_plugin_api::abi::abi_stable::type_layout::{
    TLData, TLField, TLFunction, TLPrimitive, TypeLayout,
};
use alknet_plugin_api::abi::module::layout;
use alknet_plugin_api::abi::{fault, stream, value};
use sha2::{Digest, Sha256};

/// What a layout's name does not tell.
const COMMENTS: [(&str, &str); 25] = [
    (
        "alknet_slice",
        "Borrowed bytes or text (UTF-8), valid until the call returns that they are passed to.\nA null pointer stands for \"none\".",
    ),
    (
        "alknet_blob",
        "Owned bytes. Whoever holds them gives them back: `release(owner)`. Where `release` is\nnull they are only lent, until the call returns; what a plugin answers with must then\nbe constant data.",
    ),
    ("alknet_fault", "Why something failed: `code` is one of ALKNET_FAULT_*. It owns its text."),
    ("alknet_unit", "What something gives that gives nothing."),
    ("alknet_waker", "A waker, lent until the poll returns. To keep one, clone it."),
    ("alknet_waker_table", "`clone` gives a waker that is owned; `wake` and `drop` take one back."),
    ("alknet_pair", "A name with a text."),
    ("alknet_pairs", "Borrowed names with texts."),
    (
        "alknet_polled",
        "What a poll of a stream gives: `status` is ALKNET_READY, ALKNET_PENDING, ALKNET_NONE, or\nALKNET_POLLED_FAULT plus a fault's code; `value` is the bytes moved, or the fault's detail.",
    ),
    ("alknet_halves", "Both directions of a bidirectional stream."),
    (
        "alknet_send_table",
        "The half of a stream that this side writes. Dropping it before `finish` resets the\nstream. One call at a time, but `poll_stopped` may wait beside the others.",
    ),
    (
        "alknet_recv_table",
        "The half of a stream that this side reads. `poll_read` is ready with 0 bytes at the end.",
    ),
    (
        "alknet_connection_table",
        "A connection. The information, the identity and what `closed` gives are JSON.",
    ),
    ("alknet_stats", "Counters since the connection's start; `rtt` in nanoseconds."),
    (
        "alknet_context_table",
        "The call being answered. `info` gives JSON, `remaining` nanoseconds or ALKNET_NONE.",
    ),
    (
        "alknet_env_table",
        "Calls of other operations. Input and output are JSON; `policy` is 0 for the usual, 1 to\nabort what the call has started with it, 2 to let that go on. `contains` gives\nALKNET_READY or ALKNET_NONE.",
    ),
    ("alknet_capability_table", "A secret that the operator lends."),
    ("alknet_gateway_table", "Calls on behalf of a connection's peer."),
    ("alknet_request", "One request of a peer. `timeout` in nanoseconds, UINT64_MAX for none."),
    ("alknet_event", "What comes back for a request: 0 an answer, 1 the end, 2 an error as JSON."),
    ("alknet_task_table", "A task that was spawned. Dropping the handle lets it run."),
    (
        "alknet_host_table",
        "The host's services. Levels of the log: 1 error, 2 warn, 3 info, 4 debug, 5 trace.\nDurations and times are nanoseconds.",
    ),
    (
        "alknet_plugin_table",
        "A plugin that has been built. Handlers and operations go by their position in the\nmanifest. `call` may answer at once (ALKNET_READY, `out`), or give a task\n(ALKNET_PENDING, `task`) after it has passed the waker on. What is passed by value\nbelongs to the callee, also when it fails.",
    ),
    (
        "alknet_module_table",
        "A plugin's functions. `manifest` gives JSON; `build` gets the configuration as JSON.",
    ),
    (
        "alknet_blob_task",
        "Something that takes time, and what it gives. `poll` returns ALKNET_PENDING, ALKNET_READY\nwith `out` written, ALKNET_FAULT with `fault` written, or, where it gives many, ALKNET_NONE\nafter the last. Whoever holds it drops it, once; it is not polled after its end.",
    ),
];

/// Stands before the types.
fn head(fingerprint: &str) -> String {
    let constants = [
        ("ALKNET_API_MAJOR", u64::from(API_VERSION.0), "Must be the daemon's."),
        ("ALKNET_API_MINOR", u64::from(API_VERSION.1), ""),
        ("ALKNET_READY", value::READY.into(), "Done; the out parameter is written."),
        ("ALKNET_PENDING", value::PENDING.into(), "Not yet; the waker will be woken."),
        ("ALKNET_NONE", value::NONE.into(), "There is nothing. Nothing is written."),
        ("ALKNET_FAULT", value::FAULT.into(), "It failed; the fault parameter is written."),
        ("ALKNET_POLLED_FAULT", stream::POLLED_FAULT, "In alknet_polled: plus a fault's code."),
        ("ALKNET_FAULT_PANICKED", fault::PANICKED.into(), "The other side's code broke down."),
        ("ALKNET_FAULT_CONNECTION_CLOSED", fault::CONNECTION_CLOSED.into(), "By either side."),
        ("ALKNET_FAULT_STREAM_CLOSED", fault::STREAM_CLOSED.into(), "Or it cannot do this."),
        ("ALKNET_FAULT_TIMEOUT", fault::TIMEOUT.into(), "Nothing arrived in time."),
        ("ALKNET_FAULT_RESET", fault::RESET.into(), "By the peer, with the code in `detail`."),
        ("ALKNET_FAULT_STOPPED", fault::STOPPED.into(), "By the peer, with the code in `detail`."),
        ("ALKNET_FAULT_IO", fault::IO.into(), "The text is its message."),
        ("ALKNET_FAULT_CALL", fault::CALL.into(), "Of a call; the text is the error as JSON."),
        ("ALKNET_FAULT_AUTH_REQUIRED", fault::AUTH_REQUIRED.into(), "The peer must authenticate."),
        ("ALKNET_FAULT_INTERNAL", fault::INTERNAL.into(), "Anything else, told in the text."),
        ("ALKNET_FAULT_TOO_LARGE", fault::TOO_LARGE.into(), "`extra` bytes are the most."),
    ];
    let mut text = HEAD.to_owned();
    for (name, value, comment) in constants {
        let line = format!("#define {name} {value}");
        match comment {
            "" => writeln!(text, "{line}").unwrap(),
            _ => writeln!(text, "{line:<42} /* {comment} */").unwrap(),
        }
    }
    writeln!(text, "\n/* What is the same in every minor version, as one number. */").unwrap();
    writeln!(text, "#define ALKNET_FINGERPRINT \\\n    \"{fingerprint}\"\n").unwrap();
    text
}

const HEAD: &str = r#"/*
 * The native interface of alknet, in C. Made from the Rust types; do not edit.
 *
 * A plugin is a shared library that exports `alknet_plugin_c_header_1` (see
 * ALKNET_EXPORT at the end). Either side follows only its own pointers: what it gets
 * of the other side's is a handle, which is a pointer with a table of functions that
 * take it. To call one: `connection.table->accept_bi(connection.data, &out, &fault)`.
 *
 * What is passed or returned by value, or written to an out parameter, changes its
 * owner. Handles and tasks are given back with `drop`, blobs with `release`. A function
 * that returns a status has written its out parameter, its fault, or neither, as the
 * status says. Functions without an owner may be called by several threads at once.
 */
#ifndef ALKNET_PLUGIN_H
#define ALKNET_PLUGIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

"#;

/// Stands after the types.
const FOOT: &str = r#"
/* Whether the other side's table has a function that came in a later minor version. */
#define ALKNET_HAS(table, field) (((table)->fields >> (field)) & 1)

/* What a plugin exports. */
typedef struct alknet_header {
    uint8_t magic[16];
    uint32_t api_major;
    uint32_t api_minor;
    char fingerprint[64];
    const alknet_module_table *module;
    alknet_slice build_info;
} alknet_header;

_Static_assert(sizeof(alknet_header) == 112, "alknet_header");
_Static_assert(offsetof(alknet_header, module) == 88, "alknet_header.module");

/* For `reserved` in the plugin's tables. */
static const uint64_t alknet_reserved[16] = { 0 };

/* Exports the plugin: `ALKNET_EXPORT(&table)`, once. */
#define ALKNET_EXPORT(table)                                                             \
    __attribute__((visibility("default"), used))                                         \
    const alknet_header alknet_plugin_c_header_1 = {                                     \
        { 'a', 'l', 'k', 'n', 'e', 't', ' ', 'p', 'l', 'u', 'g', 'i', 'n', 0, 13, 10 },  \
        ALKNET_API_MAJOR,                                                                \
        ALKNET_API_MINOR,                                                                \
        ALKNET_FINGERPRINT,                                                              \
        table,                                                                           \
        { (const uint8_t *)"C, " __VERSION__, sizeof("C, " __VERSION__) - 1 },           \
    }

/* A text, lent. */
static inline alknet_slice alknet_text(const char *text) {
    alknet_slice slice = { (const uint8_t *)text, strlen(text) };
    return slice;
}

/* No labels and no fields. */
static inline alknet_pairs alknet_no_pairs(void) {
    alknet_pairs none = { NULL, 0 };
    return none;
}

/* Constant bytes, which nobody releases. */
static inline alknet_blob alknet_constant(const void *bytes, size_t len) {
    alknet_blob blob = { (const uint8_t *)bytes, len, NULL, NULL };
    return blob;
}

/* Takes over bytes that `malloc` gave. */
static inline alknet_blob alknet_own(void *bytes, size_t len) {
    alknet_blob blob = { (const uint8_t *)bytes, len, bytes, free };
    return blob;
}

/* Gives a blob back. */
static inline void alknet_release(alknet_blob blob) {
    if (blob.release != NULL) {
        blob.release(blob.owner);
    }
}

/* Writes a fault with a constant text, and returns ALKNET_FAULT. For ALKNET_FAULT_CALL
 * the text is JSON: {"code":"..","message":"..","retryable":false}. */
static inline uint32_t alknet_fail(alknet_fault *fault, uint32_t code, const char *text) {
    fault->code = code;
    fault->detail = 0;
    fault->extra = 0;
    fault->text = alknet_constant(text, strlen(text));
    return ALKNET_FAULT;
}

#endif
"#;

/// A header, and a digest of what it says that is the same in every minor version.
pub(crate) struct Header {
    pub text: String,
    pub fingerprint: String,
}

pub(crate) fn generate() -> Header {
    let frozen = Types::of(true);
    let fingerprint = hex(&Sha256::digest(frozen.declarations.as_bytes()));
    let all = Types::of(false);
    let mut text = head(&fingerprint);
    for name in all.begun.keys() {
        writeln!(text, "typedef struct {name} {name};").unwrap();
    }
    text += &all.declarations;
    text += FOOT;
    Header { text, fingerprint }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The structures, each after those that it holds.
#[derive(Default)]
struct Types {
    /// Without what later minor versions may add.
    frozen: bool,
    begun: BTreeMap<String, ()>,
    declarations: String,
}

impl Types {
    fn of(frozen: bool) -> Self {
        let mut types = Self { frozen, ..Self::default() };
        types.name(layout());
        types
    }

    /// The C name of a type, which is declared if it is not yet.
    fn name(&mut self, ty: &'static TypeLayout) -> String {
        match ty.data() {
            TLData::Primitive(primitive) => return self.primitive(ty, primitive),
            _ if ty.name() == "()" => return "void".into(),
            _ if ty.name() == "PrefixRef" => {
                return format!("const {} *", self.name(pointee(ty)));
            }
            _ => {}
        }
        let fields: Vec<TLField> = ty.get_fields().expect("a struct").iter().collect();
        let name = match ty.name() {
            "Handle" => {
                let table = self.name(pointee(fields[1].layout()));
                table.trim_end_matches("_table").to_owned()
            }
            "RawTask" => {
                let poll = fields[1].function_range().iter().next().expect("a function");
                let out = poll.param_type_layouts.iter().nth(2).expect("an out parameter");
                format!("{}_task", self.name(pointee(out())))
            }
            "WakerWords" => "alknet_waker".into(),
            other => format!("alknet_{}", snake(other)),
        };
        if self.begun.insert(name.clone(), ()).is_none() {
            self.declare(&name, ty, &fields);
        }
        name
    }

    fn primitive(&mut self, ty: &'static TypeLayout, primitive: TLPrimitive) -> String {
        match primitive {
            TLPrimitive::U8 => "uint8_t".into(),
            TLPrimitive::U32 => "uint32_t".into(),
            TLPrimitive::I32 => "int32_t".into(),
            TLPrimitive::U64 => "uint64_t".into(),
            TLPrimitive::F64 => "double".into(),
            TLPrimitive::Usize => "size_t".into(),
            TLPrimitive::ConstPtr => format!("const {} *", self.name(pointee(ty))),
            TLPrimitive::MutPtr => format!("{} *", self.name(pointee(ty))),
            // Only behind a pointer, which is then to its first element.
            TLPrimitive::Array => self.name(pointee(ty)),
            other => panic!("{other:?} has no name in C yet"),
        }
    }

    fn declare(&mut self, name: &str, ty: &'static TypeLayout, fields: &[TLField]) {
        let comment = COMMENTS.iter().find(|(of, _)| *of == name).map_or("", |(_, text)| *text);
        let mut body = String::new();
        let mut asserts = String::new();
        let mut defines = String::new();
        let mut offset = 0_usize;
        let table = match ty.data() {
            TLData::PrefixType(prefix) => Some(usize::from(prefix.first_suffix_field)),
            _ => None,
        };
        if table.is_some() {
            body += "    uint64_t fields;\n    const void *reserved;\n";
            offset = 16;
        }
        for (index, field) in fields.iter().enumerate() {
            let later = table.is_some_and(|first| index >= first);
            if later && self.frozen {
                break;
            }
            if later {
                body += "    /* Not in every minor version: see ALKNET_HAS. */\n";
                let define = format!("{name}_{}", field.name()).to_uppercase();
                writeln!(defines, "#define {} {index}", define.replace("_TABLE_", "_")).unwrap();
            }
            let field_name = field.name();
            let declared = match field.function_range().iter().next() {
                Some(function) => self.function(&function),
                None => spaced(&self.name(field.layout()), field_name),
            };
            writeln!(body, "    {declared};").unwrap();
            offset = offset.next_multiple_of(field.layout().alignment());
            writeln!(
                asserts,
                "_Static_assert(offsetof({name}, {field_name}) == {offset}, \"{name}.{field_name}\");"
            )
            .unwrap();
            offset += field.layout().size();
        }
        if table.is_none() {
            let size = ty.size();
            assert_eq!(offset.next_multiple_of(ty.alignment()), size, "{name} is not as in C");
            writeln!(asserts, "_Static_assert(sizeof({name}) == {size}, \"{name}\");").unwrap();
        }
        if table.is_some() {
            let all = (1_u64 << fields.len()) - 1;
            let define = name.to_uppercase();
            if !self.frozen {
                writeln!(defines, "#define {define}_FIELDS UINT64_C({all:#x})").unwrap();
            }
        }
        if !self.frozen && !comment.is_empty() {
            let comment = comment.replace('\n', "\n * ");
            write!(self.declarations, "\n/* {comment} */").unwrap();
        }
        write!(self.declarations, "\nstruct {name} {{\n{body}}};\n{defines}{asserts}").unwrap();
    }

    fn function(&mut self, function: &TLFunction) -> String {
        let names = function.param_names.as_str().split(',');
        let types = function.param_type_layouts.iter();
        let parameters: Vec<_> =
            names.zip(types).map(|(name, ty)| spaced(&self.name(ty()), name)).collect();
        let result = function.return_type_layout().map_or("void".into(), |ty| self.name(ty()));
        format!("{}({})", spaced(&result, &format!("(*{})", function.name)), parameters.join(", "))
    }
}

/// A type before a name.
fn spaced(ty: &str, name: &str) -> String {
    if ty.ends_with('*') { format!("{ty}{name}") } else { format!("{ty} {name}") }
}

/// What a pointer points to.
fn pointee(ty: &'static TypeLayout) -> &'static TypeLayout {
    ty.phantom_fields().iter().next().expect("a pointer").layout()
}

fn snake(name: &str) -> String {
    name.chars().enumerate().fold(String::new(), |mut text, (index, letter)| {
        if letter.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
        text
    })
}
