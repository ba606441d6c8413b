//! Plugins in C.
//!
//! abi_stable describes the interface to Rust only. A plugin in C is compiled with
//! `include/alknet_plugin.h`, which is made from that description: it asserts the size
//! of each structure and the place of each field to the C compiler, and carries a
//! fingerprint of all that minor versions do not change. Where the plugin's
//! fingerprint is the host's, both mean the same structures, and fields of later minor
//! versions are told by each table's bits, as ever.

use std::mem::{offset_of, size_of};

use abi_stable::prefix_type::{PrefixRef, PrefixRefTrait, WithMetadata_};

use super::module::{ModulePrefix, ModuleRef, ModuleTable, PluginRef};
use super::value::Slice;

/// The symbol that a plugin in C exports: a [`CHeader`].
pub const C_SYMBOL: &str = "alknet_plugin_c_header_1";

/// SHA-256 of what the interface's first minor version promises, in hexadecimal.
pub const FINGERPRINT: &[u8; 64] =
    b"ab7a7ab1f909059daf0b851abe4cac149b344c92f83c927e6ff7d11471a787e0";

/// What stands behind [`C_SYMBOL`]. The part before `module` holds no pointers.
#[repr(C)]
pub struct CHeader {
    /// [`MAGIC`](super::MAGIC).
    pub magic: [u8; 16],
    /// The plugin API's major version. Others are refused.
    pub api_major: u32,
    /// The plugin API's minor version, for people.
    pub api_minor: u32,
    /// [`FINGERPRINT`]. Others are refused.
    pub fingerprint: [u8; 64],
    /// The plugin's functions: a [`RawModule`].
    pub module: *const RawModule,
    /// The compiler's version, for people.
    pub build_info: Slice,
}

/// A plugin's functions as they lie in memory, before anything of them is trusted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RawModule {
    /// A bit for each function that there is.
    pub fields: u64,
    /// Not null.
    pub reserved: usize,
    /// The addresses of the functions.
    pub functions: [usize; 2],
}

const _: () = {
    const FUNCTIONS: usize = WithMetadata_::<ModuleTable, ModulePrefix>::__VALUE_OFFSET;
    assert!(offset_of!(RawModule, functions) == FUNCTIONS);
    assert!(size_of::<RawModule>() == FUNCTIONS + size_of::<ModuleTable>());
    // What the header for C says, too.
    assert!(offset_of!(CHeader, module) == 88 && size_of::<CHeader>() == 112);
};

/// The bits of the functions that every module has.
const MODULE_FIELDS: u64 = 0b11;
/// The functions that every plugin has.
const PLUGIN_FUNCTIONS: usize = 4;

impl RawModule {
    /// Whether every function that must be there is.
    pub fn is_complete(&self) -> bool {
        self.fields & MODULE_FIELDS == MODULE_FIELDS
            && self.reserved != 0
            && self.functions.iter().all(|function| *function != 0)
    }
}

/// Takes a table of functions.
///
/// # Safety
/// The table is [complete](RawModule::is_complete), its functions are those of
/// `alknet_plugin.h` with this [`FINGERPRINT`], and all of it stays.
pub unsafe fn module(raw: *const RawModule) -> ModuleRef {
    // SAFETY: the caller vouches for the table, which lies as a prefix type does.
    let table = unsafe { PrefixRef::from_raw(raw.cast::<WithMetadata_<ModulePrefix, _>>()) };
    ModuleRef::from_prefix_ref(table)
}

/// Whether a built plugin has every function that it must have.
pub(super) fn is_complete(plugin: PluginRef) -> bool {
    let fields = plugin.to_prefix_ref().field_accessibility();
    (0..PLUGIN_FUNCTIONS).all(|field| fields.at(field).is_accessible())
}
