//! The relay as a process: `ohttp-relay --config FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::start::run("ohttp-relay", ohttp_relay::run)
}
