//! Every call that can be made of a client.

use client::{Client, MessageId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::options::ProfileName;
use crate::shape::{self, name, stored};

mod arguments;

use arguments::{Draft, Profile, PushAddress, PushConsent, Reason};

/// A call, as the worker hands it in: its name and what comes with it.
#[derive(Deserialize)]
#[serde(
    tag = "call",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub(crate) enum Call {
    AcceptRequest {
        id: String,
    },
    AcceptUnverified {
        group: String,
    },
    Acknowledge {
        events: Vec<i64>,
    },
    AddToGroup {
        group: String,
        names: Vec<String>,
    },
    ApproveLink {
        code: String,
        shown: String,
    },
    AskToReturn {
        group: String,
        contact: String,
    },
    Awake {
        seconds: u16,
    },
    Ban {
        group: String,
        member: String,
    },
    Banned {
        group: String,
    },
    BringToFront {
        group: String,
    },
    CancelRequest {
        handle: String,
    },
    CheckInbox,
    CompleteLink {
        shown: String,
        wait_ms: u32,
    },
    Connect {
        handle: String,
        greeting: Option<String>,
    },
    Contacts,
    CountKeyPackages,
    CreateGroup {
        name: String,
        ciphersuite: Option<u16>,
    },
    DeclineRequest {
        id: String,
    },
    DeleteAccount,
    DeleteGroup {
        group: String,
    },
    DeleteHandle,
    Devices,
    Disagreement,
    Disconnect {
        contact: String,
    },
    EpochAuthenticator {
        group: String,
    },
    Events,
    Evidence {
        group: String,
    },
    FillWallet,
    ForgetGroup {
        group: String,
    },
    Group {
        group: String,
    },
    Groups,
    IncomingRequests,
    Invite {
        group: String,
        days: u32,
    },
    JoinByCode {
        code: String,
    },
    LeaveGroup {
        group: String,
    },
    LinkCode {
        name: String,
    },
    MarkRead {
        group: String,
        messages: Vec<MessageId>,
    },
    Members {
        group: String,
    },
    Messages {
        group: String,
        before: Option<MessageId>,
        limit: Option<u32>,
    },
    OwnHandle,
    QueueMessage {
        group: String,
        message: Draft,
    },
    QueuedMessages,
    Receipts {
        group: String,
    },
    Receive {
        wait_ms: u32,
    },
    RegisterHandle {
        handle: String,
    },
    RegisterPush {
        address: PushAddress,
        consent: PushConsent,
    },
    RejoinDevices,
    RejoinGroup {
        group: String,
    },
    RejoinGroupWithShown {
        group: String,
    },
    RemoveFromGroup {
        group: String,
        names: Vec<String>,
    },
    RemovePush,
    RenameContact {
        contact: String,
        name: Option<String>,
    },
    ReplaceInGroup {
        group: String,
        name: String,
    },
    Report {
        who: String,
        reason: Reason,
    },
    RevokeInvitation {
        code: String,
    },
    SafetyNumber {
        contact: String,
    },
    SendMessage {
        group: String,
        message: Draft,
    },
    SetGroupProfile {
        group: String,
        profile: Profile,
    },
    SetMuted {
        group: String,
        member: String,
        muted: bool,
    },
    SetProfile {
        profile: ProfileName,
    },
    SetReceipts {
        group: String,
        told: client::Receipts,
    },
    SetRole {
        group: String,
        member: String,
        role: String,
    },
    StopReason {
        group: String,
    },
    Sync {
        wait_ms: u32,
    },
    Tokens,
    Unban {
        group: String,
        name: String,
    },
    UnlinkDevice {
        name: String,
    },
    UnlinkOtherDevices,
    UpdateOwnLeaf {
        group: String,
    },
    UpgradeGroup {
        group: String,
        ciphersuite: u16,
    },
    UpgradeGroupLeavingOthers {
        group: String,
        ciphersuite: u16,
    },
    VerifyGroup {
        group: String,
    },
    WhoCanBringBack {
        group: String,
    },
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

impl Call {
    /// Does it; its answer, or nothing.
    pub(crate) async fn carry_out(self, sdk: &Client) -> Result<Value, Failure> {
        Ok(match self {
            Self::AcceptRequest { id } => shape::shown(sdk.accept_request(&id).await?)?,
            Self::AcceptUnverified { group } => {
                sdk.accept_unverified(&group).await?;
                Value::Null
            }
            Self::Acknowledge { events } => {
                sdk.acknowledge_by_id(&events)?;
                Value::Null
            }
            Self::AddToGroup { group, names } => {
                sdk.add_to_group(&group, &refs(&names)).await?;
                Value::Null
            }
            Self::ApproveLink { code, shown } => {
                shape::shown(sdk.approve_link(&code, &shown).await?)?
            }
            Self::AskToReturn { group, contact } => {
                sdk.ask_to_return(&group, &contact).await?;
                Value::Null
            }
            Self::Awake { seconds } => {
                sdk.awake(seconds).await?;
                Value::Null
            }
            Self::Ban { group, member } => {
                sdk.ban(&group, &member).await?;
                Value::Null
            }
            Self::Banned { group } => shape::shown(sdk.banned(&group)?)?,
            Self::BringToFront { group } => {
                sdk.bring_to_front(&group).await?;
                Value::Null
            }
            Self::CancelRequest { handle } => {
                sdk.cancel_request(&handle).await?;
                Value::Null
            }
            Self::CheckInbox => {
                sdk.check_inbox().await?;
                Value::Null
            }
            Self::CompleteLink { shown, wait_ms } => {
                shape::shown(sdk.complete_link(&shown, wait_ms).await?)?
            }
            Self::Connect { handle, greeting } => {
                match greeting {
                    Some(greeting) => sdk.connect_with(&handle, &greeting).await,
                    None => sdk.connect(&handle).await,
                }?;
                Value::Null
            }
            Self::Contacts => {
                let contact = |it: client::Contact| {
                    json!({
                        "user": it.user, "name": it.name, "handle": it.handle,
                        "reportable": it.reportable,
                    })
                };
                sdk.contacts()?.into_iter().map(contact).collect()
            }
            Self::CountKeyPackages => {
                let count = |(ciphersuite, count): (u16, u32)| {
                    json!({
                        "ciphersuite": ciphersuite, "count": count,
                    })
                };
                sdk.count_key_packages()
                    .await?
                    .into_iter()
                    .map(count)
                    .collect()
            }
            Self::CreateGroup { name, ciphersuite } => {
                match ciphersuite {
                    Some(suite) => sdk.create_group_with(&name, suite).await,
                    None => sdk.create_group(&name).await,
                }?;
                Value::Null
            }
            Self::DeclineRequest { id } => {
                sdk.decline_request(&id).await?;
                Value::Null
            }
            Self::DeleteAccount => {
                sdk.delete_account().await?;
                Value::Null
            }
            Self::DeleteGroup { group } => {
                sdk.delete_group(&group).await?;
                Value::Null
            }
            Self::DeleteHandle => {
                sdk.delete_handle().await?;
                Value::Null
            }
            Self::Devices => shape::shown(sdk.devices()?)?,
            Self::Disagreement => match sdk.disagreement().await? {
                Some(error) => json!({ "code": error.code(), "detail": error.to_string() }),
                None => Value::Null,
            },
            Self::Disconnect { contact } => {
                sdk.disconnect(&contact).await?;
                Value::Null
            }
            Self::EpochAuthenticator { group } => {
                let (epoch, authenticator) = sdk.epoch_authenticator(&group)?;
                json!({ "epoch": epoch, "authenticator": authenticator })
            }
            Self::Events => {
                let events = sdk.events()?;
                Value::Array(events.iter().map(stored).collect::<Result<_, _>>()?)
            }
            Self::Evidence { group } => shape::shown(sdk.evidence(&group)?)?,
            Self::FillWallet => {
                sdk.fill_wallet().await?;
                Value::Null
            }
            Self::ForgetGroup { group } => {
                sdk.forget_group(&group).await?;
                Value::Null
            }
            Self::Group { group } => shape::shown(sdk.group(&group)?)?,
            Self::Groups => shape::shown(sdk.groups()?)?,
            Self::IncomingRequests => shape::shown(sdk.incoming_requests()?)?,
            Self::Invite { group, days } => shape::shown(sdk.invite(&group, days).await?)?,
            Self::JoinByCode { code } => shape::shown(sdk.join_by_code(&code).await?)?,
            Self::LeaveGroup { group } => {
                sdk.leave_group(&group).await?;
                Value::Null
            }
            Self::LinkCode { name } => shape::shown(sdk.link_code(&name).await?)?,
            Self::MarkRead { group, messages } => {
                sdk.mark_read(&group, &messages)?;
                Value::Null
            }
            Self::Members { group } => shape::shown(sdk.members(&group)?)?,
            Self::Messages {
                group,
                before,
                limit,
            } => shape::shown(sdk.messages(&group, before, limit.unwrap_or(50))?)?,
            Self::OwnHandle => shape::shown(sdk.handle()?)?,
            Self::QueueMessage { group, message } => {
                shape::shown(sdk.queue_message(&group, message.for_sdk()?)?)?
            }
            Self::QueuedMessages => {
                let queued = |it: client::QueuedMessage| {
                    json!({
                        "message": it.message, "groupId": it.group_id, "text": it.text,
                        "madeMs": it.made_ms,
                    })
                };
                sdk.queued_messages()?.into_iter().map(queued).collect()
            }
            Self::Receipts { group } => name(sdk.receipts(&group)?)?,
            Self::Receive { wait_ms } => {
                let events = sdk.receive(wait_ms).await?;
                Value::Array(events.iter().map(stored).collect::<Result<_, _>>()?)
            }
            Self::RegisterHandle { handle } => {
                sdk.register_handle(&handle).await?;
                Value::Null
            }
            Self::RegisterPush { address, consent } => {
                sdk.register_push(address.for_sdk()?, consent.for_sdk())
                    .await?;
                Value::Null
            }
            Self::RejoinDevices => {
                sdk.rejoin_devices().await?;
                Value::Null
            }
            Self::RejoinGroup { group } => {
                sdk.rejoin_group(&group).await?;
                Value::Null
            }
            Self::RejoinGroupWithShown { group } => {
                sdk.rejoin_group_with_shown(&group).await?;
                Value::Null
            }
            Self::RemoveFromGroup { group, names } => {
                sdk.remove_from_group(&group, &refs(&names)).await?;
                Value::Null
            }
            Self::RemovePush => {
                sdk.remove_push().await?;
                Value::Null
            }
            Self::RenameContact { contact, name } => {
                sdk.rename_contact(&contact, name.as_deref()).await?;
                Value::Null
            }
            Self::ReplaceInGroup { group, name } => {
                sdk.replace_in_group(&group, &name).await?;
                Value::Null
            }
            Self::Report { who, reason } => {
                sdk.report(&who, reason.into()).await?;
                Value::Null
            }
            Self::RevokeInvitation { code } => {
                sdk.revoke_invitation(&code).await?;
                Value::Null
            }
            Self::SafetyNumber { contact } => shape::shown(sdk.safety_number(&contact)?)?,
            Self::SendMessage { group, message } => {
                shape::shown(sdk.send_message(&group, message.for_sdk()?).await?)?
            }
            Self::SetGroupProfile { group, profile } => {
                sdk.set_group_profile(&group, profile.for_sdk()?).await?;
                Value::Null
            }
            Self::SetMuted {
                group,
                member,
                muted,
            } => {
                sdk.set_muted(&group, &member, muted).await?;
                Value::Null
            }
            Self::SetProfile { profile } => {
                sdk.set_profile(profile.into()).await?;
                Value::Null
            }
            Self::SetReceipts { group, told } => {
                sdk.set_receipts(&group, told).await?;
                Value::Null
            }
            Self::SetRole {
                group,
                member,
                role,
            } => {
                sdk.set_role(&group, &member, &role).await?;
                Value::Null
            }
            Self::StopReason { group } => name(sdk.stop_reason(&group)?)?,
            Self::Sync { wait_ms } => {
                sdk.sync(wait_ms).await?;
                Value::Null
            }
            Self::Tokens => shape::shown(sdk.tokens().await?)?,
            Self::Unban { group, name } => {
                sdk.unban(&group, &name).await?;
                Value::Null
            }
            Self::UnlinkDevice { name } => {
                sdk.unlink_device(&name).await?;
                Value::Null
            }
            Self::UnlinkOtherDevices => shape::shown(sdk.unlink_other_devices().await?)?,
            Self::UpdateOwnLeaf { group } => {
                sdk.update_own_leaf(&group).await?;
                Value::Null
            }
            Self::UpgradeGroup { group, ciphersuite } => {
                sdk.upgrade_group(&group, ciphersuite).await?;
                Value::Null
            }
            Self::UpgradeGroupLeavingOthers { group, ciphersuite } => shape::shown(
                sdk.upgrade_group_leaving_others(&group, ciphersuite)
                    .await?,
            )?,
            Self::VerifyGroup { group } => {
                let (members, epoch) = sdk.verify_group(&group).await?;
                json!({ "members": members, "epoch": epoch })
            }
            Self::WhoCanBringBack { group } => shape::shown(sdk.who_can_bring_back(&group)?)?,
        })
    }
}
