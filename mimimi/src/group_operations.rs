//! What members do in groups beside adding and removing one another.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use client::{Client, Error, LocalError, MAX_PICTURE, Picture, UsageError};
use serde_json::json;

use crate::terminal::{Name, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupOperation {
    /// Leave a group; done when another member has seen it
    Leave {
        /// Name of the group
        group: String,
    },
    /// Delete a group for everybody
    Delete {
        /// Name of the group
        group: String,
    },
    /// Forget a group that you are not in any more, and what was said there
    Forget {
        /// Name of the group
        group: String,
    },
    /// Give a member a role
    Role {
        /// Name of the group
        group: String,
        /// Their name in the group
        member: String,
        /// `admin` or `member`
        role: String,
    },
    /// What a group says of itself: show it, or change it for all of its members
    Profile {
        /// Name of the group
        group: String,
        #[command(flatten)]
        change: ProfileChange,
    },
    /// Let a member read but not send
    Mute {
        /// Name of the group
        group: String,
        /// Their name in the group
        member: String,
    },
    /// Let a member send again
    Unmute {
        /// Name of the group
        group: String,
        /// Their name in the group
        member: String,
    },
    /// Remove a member and keep it out
    Ban {
        /// Name of the group
        group: String,
        /// Their name in the group
        member: String,
    },
    /// Have a contact whose client is dead come in anew, as it is now
    Replace {
        /// Name of the group
        group: String,
        /// The contact
        member: String,
    },
    /// Let a banned person come in again
    Unban {
        /// Name of the group
        group: String,
        /// Their name
        name: String,
    },
    /// Come back into a group, or a connection, that this client does not follow any more
    Rejoin {
        /// Name of the group or contact
        #[arg(required_unless_present = "devices")]
        group: Option<String>,
        /// Go on although there are members whom you have not seen there: those that `rejoin` has
        /// named
        #[arg(long, conflicts_with = "devices")]
        with_new: bool,
        /// What your devices tell each other
        #[arg(long, conflicts_with = "group")]
        devices: bool,
    },
    /// After a long absence: who can add you to a group again
    Return {
        /// Name of the group
        group: String,
        /// Ask this one to
        #[arg(long)]
        ask: Option<String>,
    },
    /// Go on in a group although a member cannot show who it is: it reads what is sent from then
    /// on, and learns who everybody is when somebody is added
    AcceptUnverified {
        /// Name of the group
        group: String,
    },
    /// Make a join code: whoever has it can come in
    Invite {
        /// Name of the group
        group: String,
        /// Good for so many days
        #[arg(long, default_value_t = 7)]
        days: u32,
    },
    /// Come into a group by a join code
    Join {
        /// As `invite` printed it
        code: String,
    },
    /// Revoke a join code
    Revoke {
        /// As `invite` printed it
        code: String,
    },
    /// Put another group in the place of one, in another ciphersuite
    Upgrade {
        /// Name of the group
        group: String,
        /// 1, 2 (P-256), 3 (ChaCha20), 78 or 79 (X-Wing, post-quantum hybrid)
        suite: u16,
        /// Also when some members cannot be brought along: who is no contact, or has no KeyPackages
        /// for it
        #[arg(long)]
        leave_others: bool,
    },
}

/// What of a group's profile is to change.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct ProfileChange {
    /// Another name
    #[arg(long)]
    name: Option<String>,
    /// Another description, up to 1,024 bytes; empty for none
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// File with another picture: PNG, JPEG, WebP or GIF, up to 4,096 bytes
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// No picture
    #[arg(long, conflicts_with = "picture")]
    no_picture: bool,
}

/// By how its format begins; none for what is none of these.
fn media_type(image: &[u8]) -> Option<&'static str> {
    match image {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some("image/webp"),
        _ => None,
    }
}

fn picture(file: &Path) -> Result<Picture, Error> {
    let mut image = Vec::new();
    // What is too long is not read to its end.
    let most = u64::try_from(MAX_PICTURE.saturating_add(1)).unwrap_or(u64::MAX);
    std::fs::File::open(file)
        .and_then(|file| file.take(most).read_to_end(&mut image))
        .map_err(LocalError::Input)?;
    match media_type(&image) {
        Some(media_type) => Ok(Picture::new(media_type, image)),
        None => Err(UsageError::InvalidGroupProfile.into()),
    }
}

async fn profile(client: &Client, group: &str, change: ProfileChange) -> Result<Output, Error> {
    client.sync(0).await?;
    let before = client.group(group)?;
    let mut profile = before.profile.clone();
    if let Some(name) = change.name {
        profile.name = name;
    }
    if let Some(description) = change.description {
        profile.description = description;
    }
    match change.picture {
        Some(file) => profile.picture = Some(picture(&file)?),
        None if change.no_picture => profile.picture = None,
        None => {}
    }
    if profile != before.profile {
        client.set_group_profile(before.id, profile).await?;
    }
    let now = client.group(before.id)?;
    let picture = match &now.profile.picture {
        Some(picture) => format!("{}, {} bytes", picture.media_type, picture.image.len()),
        None => "none".to_owned(),
    };
    let rows = [
        ["name", &Name(&now.name).to_string()],
        ["description", &now.profile.description],
        ["picture", &picture],
    ];
    let rows = rows.map(|row| row.map(str::to_owned));
    let document = json!({ "group": now.name, "profile": now.profile });
    Ok(Output::table(document, ["WHAT", "VALUE"], rows, "").with_texts_of_others())
}

pub(crate) async fn execute(client: &Client, operation: GroupOperation) -> Result<Output, Error> {
    Ok(match operation {
        GroupOperation::Leave { group } => {
            client.leave_group(&group).await?;
            Output::new(json!({ "leaving": group }), [format!("leaving {group}")])
        }
        GroupOperation::Delete { group } => {
            client.delete_group(&group).await?;
            Output::new(json!({ "deleted": group }), [format!("deleted {group}")])
        }
        GroupOperation::Forget { group } => {
            client.forget_group(&group).await?;
            Output::new(json!({ "forgotten": group }), [format!("forgot {group}")])
        }
        GroupOperation::Role {
            group,
            member,
            role,
        } => {
            client.set_role(&group, &member, &role).await?;
            Output::new(
                json!({ "group": group, "member": member, "role": role }),
                [format!("{member} is {role} of {group}")],
            )
        }
        GroupOperation::Profile { group, change } => profile(client, &group, change).await?,
        GroupOperation::Mute { group, member } => {
            client.set_muted(&group, &member, true).await?;
            Output::new(
                json!({ "group": group, "muted": member }),
                [format!("{member} cannot send to {group}")],
            )
        }
        GroupOperation::Unmute { group, member } => {
            client.set_muted(&group, &member, false).await?;
            Output::new(
                json!({ "group": group, "unmuted": member }),
                [format!("{member} can send to {group}")],
            )
        }
        GroupOperation::Ban { group, member } => {
            client.ban(&group, &member).await?;
            Output::new(
                json!({ "group": group, "banned": member }),
                [format!("{member} is banned from {group}")],
            )
        }
        GroupOperation::Replace { group, member } => {
            client.replace_in_group(&group, &member).await?;
            Output::new(
                json!({ "group": group, "replaced": member }),
                [format!("{member} is in {group} anew")],
            )
        }
        GroupOperation::Unban { group, name } => {
            client.unban(&group, &name).await?;
            Output::new(
                json!({ "group": group, "unbanned": name }),
                [format!("{name} can come into {group} again")],
            )
        }
        GroupOperation::Rejoin { group: None, .. } => {
            client.rejoin_devices().await?;
            Output::new(
                json!({ "rejoined": "devices" }),
                ["your devices hear of each other again".to_owned()],
            )
        }
        GroupOperation::Rejoin {
            group: Some(group),
            with_new,
            ..
        } => {
            if with_new {
                client.rejoin_group_with_shown(&group).await?;
            } else {
                client.rejoin_group(&group).await?;
            }
            Output::new(json!({ "rejoined": group }), [format!("back in {group}")])
        }
        GroupOperation::Return { group, ask } => {
            let contacts = client.who_can_bring_back(&group)?;
            let line = match &ask {
                Some(contact) => {
                    client.ask_to_return(&group, contact).await?;
                    format!("asked {contact} to add you to {group} again")
                }
                None if contacts.is_empty() => {
                    format!("no contact of yours was in {group} whose connection with you stands")
                }
                None => format!(
                    "can add you to {group} again: {}; mimimi group return {group} --ask NAME",
                    contacts.join(", ")
                ),
            };
            Output::new(
                json!({ "group": group, "contacts": contacts, "asked": ask }),
                [line],
            )
        }
        GroupOperation::AcceptUnverified { group } => {
            client.accept_unverified(&group).await?;
            Output::new(
                json!({ "group": group, "accepted": true }),
                [format!("you go on in {group}")],
            )
        }
        GroupOperation::Invite { group, days } => {
            let code = client.invite(&group, days).await?;
            Output::new(json!({ "group": group, "code": code }), [code.clone()])
        }
        GroupOperation::Join { code } => {
            let group = client.join_by_code(&code).await?;
            // Whom the user writes to from here on: shown before anything is said.
            let members = client.members(&group)?;
            let others = members.into_iter().filter(|member| !member.own);
            let names: Vec<String> = others.map(|member| member.name).collect();
            let shown = crate::terminal::names(&names);
            let line = format!("you are in {group} with {shown}");
            Output::new(json!({ "joined": group, "members": names }), [line])
        }
        GroupOperation::Revoke { code } => {
            client.revoke_invitation(&code).await?;
            Output::new(
                json!({ "revoked": true }),
                ["nobody comes in by it any more".to_owned()],
            )
        }
        GroupOperation::Upgrade {
            group,
            suite,
            leave_others,
        } => {
            let left_behind = if leave_others {
                client.upgrade_group_leaving_others(&group, suite).await?
            } else {
                client.upgrade_group(&group, suite).await?;
                Vec::new()
            };
            let mut lines = vec![format!("{group} has ciphersuite {suite:#06x} now")];
            if !left_behind.is_empty() {
                lines.push(format!("not in it: {}", left_behind.join(", ")));
            }
            Output::new(
                json!({ "group": group, "ciphersuite": suite, "left_behind": left_behind }),
                lines,
            )
        }
    })
}
