//! The issuer as a process: `privacy-pass-issuer --config FILE`, and before the first time
//! `privacy-pass-issuer init --config FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::start::run_with_store(
        privacy_pass_issuer::PROGRAM,
        privacy_pass_issuer::init,
        privacy_pass_issuer::run,
    )
}
