//! The issuer as a process: `privacy-pass-issuer --config FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::start::run("privacy-pass-issuer", privacy_pass_issuer::run)
}
