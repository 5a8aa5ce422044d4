//! The gateway as a process: `ohttp-gateway --config FILE`.

use std::process::ExitCode;

use service::alloc::ZeroOnFree;
use service::config::InitCommand;

/// Opened requests pass through buffers of libraries that do not wipe them.
#[global_allocator]
static ALLOCATOR: ZeroOnFree = ZeroOnFree::new();

fn main() -> ExitCode {
    service::start::run_with_store(
        ohttp_gateway::PROGRAM,
        |config, InitCommand::Init| ohttp_gateway::init(config),
        ohttp_gateway::run,
    )
}
