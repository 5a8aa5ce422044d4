//! The push sender as a process: `push-sender --config FILE`, and before the first time
//! `push-sender init --config FILE`.

use std::process::ExitCode;

use service::alloc::ZeroOnFree;
use service::config::InitCommand;

/// Device tokens pass through buffers of libraries that do not wipe them.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

fn main() -> ExitCode {
    service::start::run_with_store(
        push_sender::PROGRAM,
        |config, InitCommand::Init| push_sender::init(config),
        push_sender::run,
    )
}
