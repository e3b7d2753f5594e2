//! Bytes of a value and back. Only for `repr(C)` types of integers without padding.

/// # Safety
/// Every bit pattern is a valid value, and the type has no padding.
pub unsafe trait Plain: Copy + 'static {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the implementor has no padding, so that every byte is initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The first `size_of::<Self>()` bytes; `None` if there are fewer. Alignment does not matter.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: long enough, read unaligned, and every bit pattern is valid.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

/// Implements [`Plain`] for structs and refuses padding at compile time.
#[macro_export]
macro_rules! plain {
    ($type:ty { $($field:ident : $kind:ty),* $(,)? }) => {
        const _: () = assert!(size_of::<$type>() == 0 $(+ size_of::<$kind>())*, "padding");
        // SAFETY: integers and arrays of them only, checked to be without padding.
        unsafe impl $crate::plain::Plain for $type {}
    };
}

/// Declares a `repr(C)` struct and makes it [`Plain`].
#[macro_export]
macro_rules! plain_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident : $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $kind),* }
        $crate::plain!($name { $($field: $kind),* });
    };
}
