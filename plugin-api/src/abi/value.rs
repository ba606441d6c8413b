//! What crosses as an argument or a result: slices, owned bytes, handles.

use abi_stable::StableAbi;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fault::Fault;

/// The call did what it says; its out parameter is written.
pub const READY: u32 = 0;
/// Not yet; the waker that was passed will be woken.
pub const PENDING: u32 = 1;
/// There is nothing: the end of a stream, or `None`. Nothing is written.
pub const NONE: u32 = 2;
/// It failed; the [`Fault`] parameter is written.
pub const FAULT: u32 = 3;

/// Borrowed bytes or text, valid for the duration of the call that they are
/// passed to. A null pointer stands for "none" where a table says so.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Slice {
    ptr: *const u8,
    len: usize,
}

impl Slice {
    /// Stands for "none".
    pub const NULL: Self = Self { ptr: std::ptr::null(), len: 0 };

    /// Lends `bytes` to one call.
    pub const fn new(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// Lends a text, or passes "none".
    pub fn optional(text: Option<&str>) -> Self {
        text.map_or(Self::NULL, |text| Self::new(text.as_bytes()))
    }

    /// Where it points, for checks before it is read.
    pub fn range(&self) -> (*const u8, usize) {
        (self.ptr, self.len)
    }

    /// The bytes; none for null.
    ///
    /// # Safety
    /// The slice was made by [`Slice::new`] from bytes that live through `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the caller vouches for pointer, length and lifetime.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// The text, or a fault where the bytes are not UTF-8.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub(crate) unsafe fn text<'a>(self) -> Result<&'a str, Fault> {
        // SAFETY: the caller vouches for the slice.
        std::str::from_utf8(unsafe { self.bytes() })
            .map_err(|_| Fault::internal("text that crossed the plugin boundary is not UTF-8"))
    }

    /// The text, or `None` for null.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub(crate) unsafe fn optional_text<'a>(self) -> Result<Option<&'a str>, Fault> {
        if self.ptr.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller vouches for the slice.
        unsafe { self.text() }.map(Some)
    }

    /// The JSON text, read as `T`.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub(crate) unsafe fn json<T: DeserializeOwned>(self) -> Result<T, Fault> {
        // SAFETY: the caller vouches for the slice.
        serde_json::from_slice(unsafe { self.bytes() })
            .map_err(|error| Fault::internal(&format!("malformed JSON crossed: {error}")))
    }
}

/// A name with a text, lent as [`Slice`] is.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Pair {
    name: Slice,
    value: Slice,
}

/// Borrowed names with texts.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Pairs {
    ptr: *const Pair,
    len: usize,
}

/// Metrics and log records rarely have more; beyond it the list is allocated.
const INLINE_PAIRS: usize = 8;

impl Pairs {
    /// Lends `pairs` to one call.
    pub(crate) fn lend<R>(pairs: &[(&str, &str)], call: impl FnOnce(Self) -> R) -> R {
        let pair = |(name, value): &(&str, &str)| Pair {
            name: Slice::new(name.as_bytes()),
            value: Slice::new(value.as_bytes()),
        };
        if pairs.len() <= INLINE_PAIRS {
            let mut inline = [Pair { name: Slice::NULL, value: Slice::NULL }; INLINE_PAIRS];
            for (slot, item) in inline.iter_mut().zip(pairs) {
                *slot = pair(item);
            }
            call(Self { ptr: inline.as_ptr(), len: pairs.len() })
        } else {
            let all: Vec<_> = pairs.iter().map(pair).collect();
            call(Self { ptr: all.as_ptr(), len: all.len() })
        }
    }

    /// The names and texts.
    ///
    /// # Safety
    /// As for [`Slice::bytes`].
    pub(crate) unsafe fn read<'a>(self) -> Result<Vec<(&'a str, &'a str)>, Fault> {
        if self.len == 0 {
            return Ok(Vec::new());
        }
        // SAFETY: the caller vouches for pointer, length and lifetime.
        let pairs: &'a [Pair] = unsafe { std::slice::from_raw_parts(self.ptr, self.len) };
        // SAFETY: and for the slices in it.
        pairs.iter().map(|pair| unsafe { Ok((pair.name.text()?, pair.value.text()?)) }).collect()
    }
}

/// Owned bytes. Whoever holds them gives them back with `release`, which the
/// side that made them provides: allocators never mix.
#[repr(C)]
#[derive(StableAbi)]
pub struct Blob {
    ptr: *const u8,
    len: usize,
    owner: *mut (),
    /// Absent where the bytes are only lent for the duration of the call.
    release: Option<unsafe extern "C" fn(owner: *mut ())>,
}

// SAFETY: a blob owns immutable bytes whose release may happen on any thread
// (`Bytes` is Send and Sync).
unsafe impl Send for Blob {}
// SAFETY: as above; a shared blob is only read.
unsafe impl Sync for Blob {}

/// Up to this size a copy is cheaper than two reference counts.
const COPY: usize = 1024;

impl Blob {
    /// No bytes.
    pub(crate) const EMPTY: Self =
        Self { ptr: std::ptr::null(), len: 0, owner: std::ptr::null_mut(), release: None };

    /// Hands `bytes` over without copying them.
    pub(crate) fn new(bytes: Bytes) -> Self {
        unsafe extern "C" fn release(owner: *mut ()) {
            // SAFETY: `owner` came from `Box::into_raw` below and is given back once.
            super::guard_drop(|| drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) }));
        }
        if bytes.is_empty() {
            return Self::EMPTY;
        }
        let (ptr, len) = (bytes.as_ptr(), bytes.len());
        let owner = Box::into_raw(Box::new(bytes)).cast();
        Self { ptr, len, owner, release: Some(release) }
    }

    /// Passes `bytes` as an argument: lent where they are few, so that the
    /// callee copies them; handed over otherwise. The bytes must outlive the call.
    pub(crate) fn argument(bytes: &Bytes) -> Self {
        if bytes.len() <= COPY {
            let owner = std::ptr::null_mut();
            Self { ptr: bytes.as_ptr(), len: bytes.len(), owner, release: None }
        } else {
            Self::new(bytes.clone())
        }
    }

    /// Writes `value` as JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Fault> {
        serde_json::to_vec(value)
            .map(|text| Self::new(text.into()))
            .map_err(|error| Fault::internal(&error.to_string()))
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: the maker wrote pointer and length of bytes that live until
        // `release`, or through the call where they are lent.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    /// Takes the bytes over, copying them only where they are lent or few.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.len == 0 {
            return Bytes::new();
        }
        if self.release.is_none() || self.len <= COPY {
            return Bytes::copy_from_slice(self.bytes());
        }
        Bytes::from_owner(self)
    }

    /// As [`Blob::into_bytes`], for secrets: never leaves a second copy.
    pub(crate) fn into_secret(self) -> Bytes {
        if self.release.is_none() { self.into_bytes() } else { Bytes::from_owner(self) }
    }

    /// Reads the bytes as JSON.
    pub(crate) fn read_json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(self.bytes())
            .map_err(|error| Fault::internal(&format!("malformed JSON crossed: {error}")))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: `release` came with `owner`, and `drop` runs once.
            unsafe { release(self.owner) }
        }
    }
}

/// Runs `body` on the exporting side of a crossing: what it returns is written
/// to `out`, a fault or a panic to `fault`, and the status says which.
///
/// # Safety
/// `out` and `fault` are valid for writes and hold nothing that needs dropping.
pub(crate) unsafe fn answer<T>(
    out: *mut T,
    fault: *mut Fault,
    body: impl FnOnce() -> Result<Option<T>, Fault>,
) -> u32 {
    match super::guard(body) {
        Ok(Ok(Some(value))) => {
            // SAFETY: the caller vouches for `out`.
            unsafe { out.write(value) };
            READY
        }
        Ok(Ok(None)) => NONE,
        Ok(Err(error)) => {
            // SAFETY: the caller vouches for `fault`.
            unsafe { fault.write(error) };
            FAULT
        }
        Err(text) => {
            // SAFETY: the caller vouches for `fault`.
            unsafe { fault.write(Fault::panicked(text)) };
            FAULT
        }
    }
}

/// Makes a crossing from the importing side: `call` gets the two out
/// parameters, and what it wrote comes back.
pub(crate) fn ask<T>(call: impl FnOnce(*mut T, *mut Fault) -> u32) -> Result<Option<T>, Fault> {
    let mut out = std::mem::MaybeUninit::<T>::uninit();
    let mut fault = std::mem::MaybeUninit::<Fault>::uninit();
    match call(out.as_mut_ptr(), fault.as_mut_ptr()) {
        // SAFETY: the status says that `out` was written.
        READY => Ok(Some(unsafe { out.assume_init() })),
        // SAFETY: the status says that `fault` was written.
        FAULT => Err(unsafe { fault.assume_init() }),
        NONE => Ok(None),
        status => Err(Fault::internal(&format!("unknown status {status} from the other side"))),
    }
}

/// As [`ask`], where there is always an answer.
pub(crate) fn demand<T>(call: impl FnOnce(*mut T, *mut Fault) -> u32) -> Result<T, Fault> {
    ask(call)?.ok_or_else(|| Fault::internal("the other side gave no answer"))
}

/// A thin pointer to an object that this side exports.
pub(crate) fn into_raw<T>(object: T) -> *mut () {
    Box::into_raw(Box::new(object)).cast()
}

/// Ends an exported object.
///
/// # Safety
/// `data` came from [`into_raw`] with the same type and is not used again.
pub(crate) unsafe extern "C" fn drop_raw<T>(data: *mut ()) {
    // SAFETY: the caller vouches for `data`.
    super::guard_drop(|| drop(unsafe { Box::from_raw(data.cast::<T>()) }));
}

/// An object of the other side: its data, and the table that works on it.
/// Dropping it ends the object.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(bound(T: StableAbi))]
pub struct Handle<T: Table> {
    pub(crate) data: *mut (),
    pub(crate) table: T,
}

/// A table of functions that work on one kind of exported object.
pub trait Table: Copy {
    /// Ends the object.
    #[doc(hidden)]
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ());
}

// SAFETY: only objects that are Send are exported behind a handle.
unsafe impl<T: Table> Send for Handle<T> {}
// SAFETY: connections, hosts, contexts, environments, gateways, capabilities,
// tasks and plugins are exported as objects that are Sync. Halves of streams are
// not; their importers are only used as `Box<dyn SendBackend>` and
// `Box<dyn RecvBackend>`, which nobody can share.
unsafe impl<T: Table> Sync for Handle<T> {}

impl<T: Table> Handle<T> {
    pub(crate) fn new<O: Send>(object: O, table: T) -> Self {
        Self { data: into_raw(object), table }
    }
}

impl<T: Table> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the handle owns its object, and `drop` runs once.
        unsafe { self.table.drop_fn()(self.data) }
    }
}

/// # Safety
/// `data` belongs to a living handle of an exported `T`.
pub(crate) unsafe fn object<'a, T>(data: *mut ()) -> &'a T {
    // SAFETY: the caller vouches for it.
    unsafe { &*data.cast() }
}
