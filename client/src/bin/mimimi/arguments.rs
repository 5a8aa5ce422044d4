//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::group_operations::GroupOperation;

/// Private group messaging: talks to the delivery service through relay and gateway only.
#[derive(Debug, Parser)]
#[command(name = "mimimi", version)]
pub(crate) struct Arguments {
    /// Directory that holds everything of this user [default: $MIMIMI_HOME or ~/.mimimi]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,
    /// Print one JSON document; errors are {"error", "detail"} with exit status 1
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make keys, a wallet and a queue; again to change the addresses or the account token
    Init {
        /// File with the addresses of relay, gateway, delivery service and issuer
        #[arg(long, value_name = "FILE")]
        stack: PathBuf,
        /// File with the account token of the issuer
        #[arg(long, value_name = "FILE")]
        account_token: PathBuf,
    },
    /// The handle that others find this user by
    Handle {
        #[command(subcommand)]
        command: HandleCommand,
    },
    /// Ask the owner of a handle for a connection
    Connect {
        /// Their handle
        name: String,
        /// What to say with it, up to 256 bytes
        #[arg(long, default_value = "")]
        greeting: String,
    },
    /// Connection requests that wait for an answer
    Requests {
        /// Accept this request
        #[arg(long, value_name = "ID", conflicts_with = "decline")]
        accept: Option<String>,
        /// Forget this request
        #[arg(long, value_name = "ID")]
        decline: Option<String>,
    },
    /// Users that can be added to groups
    Contacts,
    /// Safety number with a contact: compare it over another channel; or whether the service sees a group as
    /// this client does
    Verify {
        /// Their handle, or the name of a group
        name: String,
    },
    /// Groups
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    #[command(flatten)]
    Operation(GroupOperation),
    /// Send a message to a group
    Send {
        /// Name of the group
        group: String,
        /// What to say
        text: String,
    },
    /// What happened since the last time
    Receive {
        /// Wait this long for something to happen
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u32,
    },
    /// The wallet of Privacy Pass tokens
    Tokens,
    /// Fill the wallet now instead of at a time of its own. The token issuer sees when, and together with the
    /// delivery service it could guess at what is done soon after
    TopUp,
    #[command(flatten)]
    Account(AccountCommand),
    /// Make a client out of a backup, in a home directory that has none
    Restore {
        /// The backup
        file: PathBuf,
        /// File with its passphrase
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "recovery_key_file"
        )]
        passphrase_file: Option<PathBuf>,
        /// File with its recovery key
        #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
        recovery_key_file: Option<PathBuf>,
    },
    /// Leave all groups and contacts, delete everything of this user at the service and here
    DeleteAccount {
        /// Really
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// Devices, consent, backups.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// On a new device, after init: show the code that makes it a device of a user
    Link {
        /// What to call it
        #[arg(long, default_value = "second")]
        name: String,
    },
    /// On a device of the user: link the device that shows this code
    LinkApprove {
        /// The code
        code: String,
        /// The number on the new device's screen: twenty digits
        #[arg(required = true, num_args = 1..=4)]
        number: Vec<String>,
    },
    /// On the new device: finish, if this is the number that the other device shows
    LinkComplete {
        /// Twenty digits
        #[arg(required = true, num_args = 1..=4)]
        number: Vec<String>,
        /// Wait this long for the other device
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u32,
    },
    /// This user's devices
    Devices,
    /// Remove a device that was lost
    RemoveDevice {
        /// As `devices` shows it
        name: String,
    },
    /// Forget a connection request
    Decline {
        /// As `requests` shows it
        id: String,
    },
    /// Take a connection request back that was not answered
    Cancel {
        /// Whom it went to
        name: String,
    },
    /// End a connection: the contact can add this user to nothing any more
    Disconnect {
        /// Their handle
        contact: String,
    },
    /// Report a contact, or the sender of a connection request, to the token issuer
    Report {
        /// Their handle, or the id of their request
        contact: String,
        /// What for
        #[arg(long, default_value = "abuse", value_parser = ["spam", "abuse", "other"])]
        reason: String,
    },
    /// Take nothing more from a group or a contact
    Block {
        /// Name of the group or the contact
        name: String,
    },
    /// Take from a blocked group or contact again
    Unblock {
        /// Name of the group or the contact
        name: String,
    },
    /// Write an encrypted backup; without a passphrase a recovery key is shown
    Backup {
        /// Must not exist yet
        file: PathBuf,
        /// File with a passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum HandleCommand {
    /// Register a handle, once: it is also the name that members of groups see
    Register {
        /// 1 to 64 of the characters a-z 0-9 . _ -
        name: String,
    },
    /// Give the handle up: nobody can ask for a connection any more
    Delete,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Make a group with this user as its only member
    Create {
        /// Its name, as everybody will see it
        name: String,
        /// 1, 2 (P-256), 3 (ChaCha20), 78 or 79 (X-Wing, post-quantum hybrid)
        #[arg(long, default_value_t = 1)]
        suite: u16,
    },
    /// Add contacts
    Add {
        /// Name of the group
        group: String,
        /// Whom
        #[arg(required = true)]
        contacts: Vec<String>,
    },
    /// Remove members
    Remove {
        /// Name of the group
        group: String,
        /// Whom
        #[arg(required = true)]
        contacts: Vec<String>,
    },
    /// Groups that this user is or was in
    List,
    /// Who is in a group
    Members {
        /// Name of the group
        group: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn home_and_json_may_stand_anywhere() {
        for line in [
            "mimimi --home h --json group add g a b",
            "mimimi group --json add g a b --home h",
            "mimimi group add g a b --json --home h",
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert!(arguments.json && arguments.home.is_some(), "{line}");
        }
    }

    #[test]
    fn numbers_may_be_typed_in_groups_and_deletion_must_be_meant() {
        for line in [
            "mimimi link-approve CODE 12345 67890 12345 67890",
            "mimimi link-approve CODE 12345678901234567890",
            "mimimi link-complete 12345 67890 12345 67890 --wait 3",
            "mimimi delete-account --yes",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        assert!(Arguments::try_parse_from(["mimimi", "delete-account"]).is_err());
        assert!(Arguments::try_parse_from(["mimimi", "restore", "f"]).is_err());
    }

    #[test]
    fn a_request_is_not_accepted_and_declined_at_once() {
        let line = "mimimi requests --accept 1 --decline 1";
        assert!(Arguments::try_parse_from(line.split(' ')).is_err());
    }
}
