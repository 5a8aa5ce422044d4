//! An allocator that wipes memory before it is given back.
//!
//! The delivery service and the gateway hold client keys and opened group state for the length of
//! one request. The buffers of the libraries in between (HTTP, MLS, codecs) do not wipe
//! themselves; with this as the `#[global_allocator]`, none of it outlives its allocation.

#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};

/// Wraps an allocator and overwrites every allocation with zeros when it is freed or moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroOnFree<A = System>(A);

impl ZeroOnFree {
    /// Over the system's allocator.
    #[must_use]
    pub const fn new() -> Self {
        Self(System)
    }
}

// SAFETY: memory comes from and goes back to `A`, with the layouts that it was asked for with;
// what is added only writes to allocations that the caller gave up.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ZeroOnFree<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc`, which is passed on.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `alloc_zeroed`, which is passed on.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller hands over an allocation of `layout.size()` bytes made by us, that is
        // by `A`; nobody else refers to it any more.
        unsafe {
            wipe(ptr, layout.size());
            self.0.dealloc(ptr, layout);
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // `A::realloc` may move the bytes and free the old place unwiped, so it is never used.
        // SAFETY: the caller guarantees that `new_size`, rounded up to the alignment, does not
        // overflow `isize`, and that it is not zero.
        unsafe {
            let new_layout = Layout::from_size_align_unchecked(new_size, layout.align());
            let new = self.0.alloc(new_layout);
            if !new.is_null() {
                // SAFETY: two live allocations, at least as long as what is copied, distinct.
                std::ptr::copy_nonoverlapping(ptr, new, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            new
        }
    }
}

/// Overwrites `len` bytes with zeros, in a way that the optimizer keeps: it knows that a store
/// before `free` is dead, unless something might read it.
///
/// # Safety
/// `ptr` points to `len` bytes that may be written.
unsafe fn wipe(ptr: *mut u8, len: usize) {
    // SAFETY: as the caller guarantees.
    unsafe { std::ptr::write_bytes(ptr, 0, len) };
    #[cfg(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    ))]
    // SAFETY: empty; without `nomem` the compiler must assume that it reads what `ptr` points to,
    // so the stores above are not dead.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) ptr, options(nostack, preserves_flags));
    }
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    )))]
    for offset in 0..len {
        // SAFETY: within the `len` bytes; volatile stores are never removed.
        unsafe { std::ptr::write_volatile(ptr.add(offset), 0) };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Looks at what it gets back.
    #[derive(Default)]
    struct Inspecting {
        freed: Cell<usize>,
        freed_with_content: Cell<usize>,
    }

    // SAFETY: passes everything on to `System`.
    unsafe impl GlobalAlloc for Inspecting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the tests write every byte before they free, so all are initialised.
            let bytes = unsafe { std::slice::from_raw_parts(ptr, layout.size()) };
            self.freed.set(self.freed.get() + 1);
            if bytes.iter().any(|byte| *byte != 0) {
                self.freed_with_content
                    .set(self.freed_with_content.get() + 1);
            }
            // SAFETY: passed on.
            unsafe { System.dealloc(ptr, layout) }
        }
    }

    #[test]
    fn freed_and_moved_memory_is_zero_when_it_goes_back() {
        let allocator = ZeroOnFree(Inspecting::default());
        for (size, new_size) in [(1, 64), (4096, 1), (100, 100), (1 << 20, 1 << 21)] {
            let align = 8;
            let (Ok(layout), Ok(new_layout)) = (
                Layout::from_size_align(size, align),
                Layout::from_size_align(new_size, align),
            ) else {
                unreachable!("both layouts are valid")
            };
            // SAFETY: allocated, written, moved and freed with matching layouts.
            unsafe {
                let ptr = allocator.alloc(layout);
                std::ptr::write_bytes(ptr, 0xaa, size);
                let moved = allocator.realloc(ptr, layout, new_size);
                let kept = std::slice::from_raw_parts(moved, size.min(new_size));
                assert!(
                    kept.iter().all(|byte| *byte == 0xaa),
                    "the content moves along"
                );
                std::ptr::write_bytes(moved, 0xbb, new_size);
                allocator.dealloc(moved, new_layout);
            }
        }
        assert_eq!(allocator.0.freed.get(), 8);
        assert_eq!(allocator.0.freed_with_content.get(), 0);
    }
}
