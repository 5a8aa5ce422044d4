//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use client::Profile;

use crate::group_operations::GroupOperation;
use crate::messages::MessageCommand;

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

/// How journals are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reading {
    /// One conversation at once, others within a minute or two. The relay sees who is in it
    Live,
    /// One conversation within a second, on a stream that is always as busy; most data
    Even,
    /// All within minutes. The relay sees nothing of them
    Batched,
    /// When there is news, and nothing else. The relay sees when, and by and by from whom
    LowData,
    /// Every half hour or so, in a minute of its own
    Periodic,
}

impl From<Reading> for Profile {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Live => Self::Live,
            Reading::Even => Self::Even,
            Reading::Batched => Self::Batched,
            Reading::LowData => Self::LowData,
            Reading::Periodic => Self::Periodic,
        }
    }
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
        /// File with the authorities of the services' certificates, PEM, instead of those of the
        /// web [default: the file that SSL_CERT_FILE names, if it is set]
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
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
    /// Safety number with a contact: compare it over another channel; or whether the service sees a
    /// group as this client does
    Verify {
        /// Their handle, or the name of a group
        name: String,
    },
    /// Groups
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// This user's devices
    Device {
        #[command(subcommand)]
        command: DeviceCommand,
    },
    /// Have this device woken when there is news. The push sender learns when, and with whom at
    /// about the same time
    Push {
        #[command(subcommand)]
        command: PushCommand,
    },
    #[command(flatten)]
    Message(MessageCommand),
    /// What happened since the last time
    Receive {
        /// Wait this long for something to happen
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u32,
        /// Go on showing what happens until this is ended, read as the profile says
        #[arg(long, conflicts_with = "wait")]
        follow: bool,
        /// The conversation that is followed on a stream, where the profile has one; what comes in
        /// others is shown within a minute or two
        #[arg(long, value_name = "GROUP", requires = "follow")]
        group: Option<String>,
        /// How much the relay may see, and how soon something is shown
        #[arg(long, value_enum, requires = "follow", default_value_t = Reading::Live)]
        profile: Reading,
    },
    /// Conversations on the whole screen, live
    Chat {
        /// The one to begin with
        group: Option<String>,
        /// How much the relay may see, and how soon something is shown
        #[arg(long, value_enum, default_value_t = Reading::Live)]
        profile: Reading,
    },
    /// The wallet of Privacy Pass tokens
    Tokens,
    /// Fill the wallet now instead of at a time of its own. The token issuer sees when, and
    /// together with the delivery service it could guess at what is done soon after
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
    /// Print what a shell needs to complete commands
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Where to write them
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Leave all groups and contacts, delete everything of this user at the service and here
    DeleteAccount {
        /// Really
        #[arg(long, required = true)]
        yes: bool,
    },
}

impl Command {
    /// Whether it can be done beside a chat: with its client, its home, and not from its keyboard.
    pub(crate) fn fits_a_chat(&self) -> bool {
        match self {
            Self::Init { .. }
            | Self::Receive { .. }
            | Self::Chat { .. }
            | Self::Completions { .. }
            | Self::Man { .. }
            | Self::Restore { .. }
            | Self::DeleteAccount { .. } => false,
            Self::Message(command) => !command.reads_input(),
            Self::Handle { .. }
            | Self::Connect { .. }
            | Self::Requests { .. }
            | Self::Contacts
            | Self::Verify { .. }
            | Self::Group { .. }
            | Self::Device { .. }
            | Self::Push { .. }
            | Self::Tokens
            | Self::TopUp
            | Self::Account(_) => true,
        }
    }
}

/// Consent, backups.
#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Take a connection request back that was not answered
    Cancel {
        /// Whom it went to
        name: String,
    },
    /// Call a contact something else, on this user's devices; its handle still finds it
    Rename {
        /// Their name or handle
        contact: String,
        /// What to call them; without it: by their handle again
        name: Option<String>,
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
    /// Write an encrypted backup; without a passphrase a recovery key is shown
    Backup {
        /// Must not exist yet
        file: PathBuf,
        /// File with a passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Take what was said along to another device of this user
    History {
        #[command(subcommand)]
        command: HistoryCommand,
    },
}

/// What was said, for another device of this user.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// Write it into a file, sealed; without a passphrase a recovery key is shown
    Export {
        /// Must not exist yet
        file: PathBuf,
        /// Only what was said in the last so many days
        #[arg(long)]
        days: Option<u32>,
        /// Only what was said in this group; may be repeated
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// File with a passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Read it in: each message comes to its place
    Import {
        /// The history
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
}

/// The devices of one user.
#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// This user's devices
    List,
    /// On a new device, after init: show the code that makes it a device of a user
    Link {
        /// What to call it
        #[arg(long, default_value = "second")]
        name: String,
    },
    /// On a device of the user: link the device that shows this code
    Approve {
        /// The code
        code: String,
        /// The number on the new device's screen: twenty digits
        #[arg(required = true, num_args = 1..=4)]
        number: Vec<String>,
    },
    /// On the new device: finish, if this is the number that the other device shows
    Complete {
        /// Twenty digits
        #[arg(required = true, num_args = 1..=4)]
        number: Vec<String>,
        /// Wait this long for the other device
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u32,
    },
    /// Remove a device that was lost, from every group; contacts and the handle get new keys
    Remove {
        /// As `device list` shows it
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// All devices but this one
        #[arg(long)]
        all: bool,
    },
}

/// Being woken.
#[derive(Debug, Subcommand)]
pub(crate) enum PushCommand {
    /// From now on, in one of four ways; again to change it
    On(PushAddressArguments),
    /// Not for so many seconds, since this device reads by itself; 0: it sleeps again
    Awake {
        /// An hour at most
        #[arg(value_parser = clap::value_parser!(u16).range(0..=3600))]
        seconds: u16,
    },
    /// Not any more
    Off,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(
    clap::ArgGroup::new("address").required(true).args(["webhook", "web_push", "apns", "fcm"])
))]
pub(crate) struct PushAddressArguments {
    /// By a signed POST to a server of one's own
    #[arg(long, value_name = "URL", requires = "secret_file")]
    pub(crate) webhook: Option<String>,
    /// File with the key of the signature: 64 hexadecimal digits
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub(crate) secret_file: Option<PathBuf>,
    /// By Web Push: file with the subscription, as a browser gives it in JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) web_push: Option<PathBuf>,
    /// By Apple: the device token, in hexadecimal
    #[arg(long, value_name = "TOKEN", requires = "app")]
    pub(crate) apns: Option<String>,
    /// By Google: the registration token
    #[arg(long, value_name = "TOKEN", requires = "app")]
    pub(crate) fcm: Option<String>,
    /// The app's name at the push sender
    #[arg(long, value_name = "NAME")]
    pub(crate) app: Option<String>,
    /// A few times an hour at most
    #[arg(long)]
    pub(crate) batched: bool,
    /// Also without news, at random times: the platform cannot tell which wake-up is of news
    #[arg(long)]
    pub(crate) decoys: bool,
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
        #[arg(long, default_value_t = 79)]
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
    #[command(flatten)]
    Operation(GroupOperation),
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

    /// The commands at the ends of the tree, by their words.
    fn leaves(command: &clap::Command, words: &str) -> Vec<String> {
        let below: Vec<String> = command
            .get_subcommands()
            .filter(|below| below.get_name() != "help")
            .flat_map(|below| leaves(below, &format!("{words} {}", below.get_name())))
            .collect();
        if below.is_empty() {
            return vec![words.trim().to_owned()];
        }
        below
    }

    #[test]
    fn no_two_commands_have_one_name_and_each_is_documented() {
        fn names_are_unique(command: &clap::Command) {
            let names: Vec<&str> = command.get_subcommands().map(|it| it.get_name()).collect();
            let unique: std::collections::BTreeSet<&str> = names.iter().copied().collect();
            assert_eq!(names.len(), unique.len(), "{names:?}");
            command.get_subcommands().for_each(names_are_unique);
        }
        let command = Arguments::command();
        names_are_unique(&command);
        let documents = include_str!("../../docs/cli.md");
        for words in leaves(&command, "") {
            let heading = format!("\n### `{words}");
            assert!(documents.contains(&heading), "docs/cli.md lacks {words}");
        }
    }

    /// `a [--suite N] B|C` says each of `a B`, `a C`, `a --suite N B`, `a --suite N C`.
    fn meanings(usage: &str) -> Vec<String> {
        if let Some((before, rest)) = usage.split_once('[') {
            let (option, after) = rest.split_once(']').unwrap();
            return [String::new(), option.to_owned()]
                .into_iter()
                .flat_map(|option| meanings(&format!("{before}{option}{after}")))
                .collect();
        }
        let Some(choice) = usage.split(' ').find(|word| word.contains('|')) else {
            return vec![usage.to_owned()];
        };
        choice
            .split('|')
            .flat_map(|one| meanings(&usage.replacen(choice, one, 1)))
            .collect()
    }

    #[test]
    fn every_command_that_a_user_is_advised_is_one() {
        let mut sources = vec![concat!(env!("CARGO_MANIFEST_DIR"), "/src").into()];
        let mut advised = 0;
        while let Some(source) = sources.pop() {
            let source: PathBuf = source;
            if source.is_dir() {
                let below = std::fs::read_dir(source).unwrap();
                sources.extend(below.map(|entry| entry.unwrap().path()));
                continue;
            }
            // This file has command lines that are none.
            if source.ends_with("arguments.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&source).unwrap();
            let code = text.lines().filter(|line| !line.trim().starts_with("//"));
            for advice in code.flat_map(|line| line.split("mimimi ").skip(1)) {
                let mut command = Arguments::command();
                let mut words = advice.split(|it: char| !it.is_ascii_lowercase() && it != '-');
                while command.has_subcommands() {
                    let word = words.next().unwrap_or_default();
                    let below = command.find_subcommand(word).cloned();
                    assert!(below.is_some(), "mimimi {advice}");
                    command = below.unwrap();
                }
                advised += 1;
            }
        }
        assert!(advised > 8, "{advised}");
    }

    #[test]
    fn every_command_of_the_readmes_table_is_one() {
        let readme = include_str!("../../README.md");
        let table = readme.split("\n| command | |\n").nth(1).unwrap();
        let mut tried = 0;
        for row in table.lines().take_while(|row| row.starts_with('|')).skip(1) {
            let row = row.replace("\\|", "/");
            let first = row.split('|').nth(1).unwrap().replace('/', "|");
            for usage in first.split('`').skip(1).step_by(2) {
                for line in meanings(usage) {
                    let line = format!("mimimi {line}");
                    // A number stands for what has to be one.
                    let words = line.split_whitespace().map(|word| match word {
                        "N" | "SUITE" => "2",
                        other => other,
                    });
                    let parsed = Arguments::try_parse_from(words);
                    assert!(parsed.is_ok(), "{line}: {parsed:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 20, "{tried}");
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
            "mimimi device approve CODE 12345 67890 12345 67890",
            "mimimi device approve CODE 12345678901234567890",
            "mimimi device complete 12345 67890 12345 67890 --wait 3",
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
