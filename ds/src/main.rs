//! The delivery service as a process: `ds --config FILE`.

use std::process::ExitCode;

use service::alloc::ZeroOnFree;

/// Group state and keys pass through buffers of libraries that do not wipe them.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

fn main() -> ExitCode {
    service::start::run("ds", ds::run)
}
