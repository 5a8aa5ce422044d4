//! The delivery service as a process: `ds --config FILE`, and before the first time `ds init
//! --config FILE`; after the store was put back from a backup, `ds restored --config FILE`.

use std::process::ExitCode;

use service::alloc::ZeroOnFree;

/// Group state and keys pass through buffers of libraries that do not wipe them.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

fn main() -> ExitCode {
    service::start::run_with_store("ds", ds_server::command, ds_server::run)
}
