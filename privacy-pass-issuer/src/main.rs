//! The issuer as a process: `privacy-pass-issuer --config FILE`, and before the first time
//! `privacy-pass-issuer init --config FILE`.

use std::process::ExitCode;

use service::config::InitCommand;

fn main() -> ExitCode {
    service::start::run_with_store(
        privacy_pass_issuer::PROGRAM,
        |config, InitCommand::Init| privacy_pass_issuer::init(config),
        privacy_pass_issuer::run,
    )
}
