//! Joining by Welcome: it is found by a pointer, and with it and the join record a client is in.

use crypto::connection::verify_attribution;
use crypto::keys::IdentityLinkWrapperKey;
use crypto::records::open_join_page;
use crypto::schedule::{JoinKey, JournalKey, StateKey, TagKey, exporters};
use crypto::secret::Secret;
use openmls::group::ProcessedWelcome;
use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, RatchetTreeIn, StagedWelcome, Welcome,
};
use protocol::codec::opaque;
use protocol::connections::ClientCredential;
use protocol::group::GroupKind;
use protocol::ids::{ChainHead, Day, GroupId, Position, Step};
use protocol::join::{JOIN_RECORD_PAGE, JoinRecordContent, JoinRecordRequest, JoinRecordResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::welcome::{
    FetchWelcomeRequest, FetchWelcomeResponse, JoinInfo, WelcomeContent, WelcomePointer,
};
use protocol::{WIRE_VERSION, Wire as _};
use rusqlite::{Connection, OptionalExtension as _};
use tls_codec::DeserializeBytes as _;

use crate::contacts::{self, name_of_key};
use crate::database::begin;
use crate::devices;
use crate::engine::Engine;
use crate::error::{Error, LocalError, PeerError, mls};
use crate::events::{self, Event};
use crate::groups::identities::{self, Identity, LinkKeys};
use crate::groups::known::Known;
use crate::groups::pointers::{self, Invited, MISFITS, TRIES};
use crate::groups::{
    Group, MAX_NAME, Status, discard_mls, evidence, free_name, group_id, join_config, known,
    numbered, people, refused, upgrade,
};
use crate::journal::wrappers::Wrappers;
use crate::journal::{Segment, check_place, welcomes};
use crate::leaf;
use crate::profile::Profile;
use crate::provider::Provider;
use crate::text;

/// What a Welcome says before the tree is known.
pub(super) struct Invitation {
    id: GroupId,
    epoch: u64,
    join_key: JoinKey,
    info: JoinInfo,
    /// The contact whose invitation it is.
    by: String,
}

/// Somebody who is no contact, and what they call the group that they have made of a KeyPackage of
/// ours.
pub(super) struct Stranger {
    key: Vec<u8>,
    group: String,
}

impl Stranger {
    /// Says what happened; the group is not joined.
    fn refuse(&self, db: &Connection, profile: &Profile) -> Result<(), Error> {
        let by = match contacts::name_seen(db, &self.key)? {
            Some(name) => {
                let credential = ClientCredential {
                    name: opaque(name.into_bytes()),
                    signature_public_key: opaque(self.key.as_slice()),
                };
                contacts::display_name(db, &profile.credential()?, &credential)?
            }
            None => String::new(),
        };
        let group = self.group.clone();
        events::store(db, &Event::InvitationRefused { group, by })
    }
}

fn parse(bytes: &[u8]) -> Result<Welcome, Error> {
    match MlsMessageIn::tls_deserialize_exact_bytes(bytes).map(MlsMessageIn::extract) {
        Ok(MlsMessageBodyIn::Welcome(welcome)) => Ok(welcome),
        _ => Err(PeerError::Message.into()),
    }
}

/// Opens a Welcome. It consumes the KeyPackage, so the caller's transaction is rolled back: the
/// KeyPackage is needed again once the join record is there.
pub(super) fn invitation(
    db: &Connection,
    profile: &Profile,
    content: &WelcomeContent,
) -> Result<Result<Invitation, Stranger>, Error> {
    let provider = Provider::new(db);
    let welcome = parse(content.welcome.as_slice())?;
    let processed = ProcessedWelcome::new_from_welcome(&provider, &join_config(), welcome)
        .map_err(|_| PeerError::Message)?;
    let export = |label: &str| -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
        processed
            .export_secret(provider.crypto(), label, &[], 32)
            .map(zeroize::Zeroizing::new)
            .map_err(mls)
    };
    let unverified = processed.unverified_group_info();
    let id = group_id(unverified.group_id()).ok_or(PeerError::Message)?;
    let epoch = unverified.epoch().as_u64();
    known::check_epoch(epoch)?;
    let info =
        JoinInfo::decode(content.join_info.as_slice()).map_err(|_| PeerError::Attribution)?;
    let wrapper = IdentityLinkWrapperKey::from(&info.wrapper_key);
    verify_attribution(
        &info.attribution,
        &id,
        epoch,
        &wrapper,
        info.group_name.as_slice(),
    )
    .map_err(|_| PeerError::Attribution)?;
    // Consent: only contacts can add us, and our own devices where we have asked them.
    let key = info.attribution.signature_public_key.as_slice();
    let by = if key == profile.identity.public() {
        let has_asked = !devices::asked_in(db, &id)?.is_empty();
        profile.handle.clone().filter(|_| has_asked)
    } else {
        name_of_key(db, key)?
    };
    let by = match by {
        Some(by) => by,
        None => {
            return Ok(Err(Stranger {
                key: key.to_vec(),
                group: String::from_utf8_lossy(info.group_name.as_slice()).into_owned(),
            }));
        }
    };
    Ok(Ok(Invitation {
        id,
        epoch,
        join_key: JoinKey::try_from(export(exporters::JOIN_RECORD)?.as_slice())?,
        info,
        by,
    }))
}

/// Joins, in the caller's transaction.
fn join(
    db: &Connection,
    profile: &Profile,
    content: &WelcomeContent,
    pointer: &WelcomePointer,
    invitation: &Invitation,
    record: &JoinRecordContent,
) -> Result<(), Error> {
    let provider = Provider::new(db);
    let id = &invitation.id;
    let former = Group::find(db, id)?;
    // Whatever epoch it claims: whoever has a KeyPackage of ours can make a Welcome for any group
    // id, and what this client is in would be replaced by it.
    let status = former.as_ref().map(|group| group.status);
    if matches!(status, Some(Status::Active | Status::Joining)) {
        return Ok(());
    }
    let known = known::of(db, id)?;
    let by_member = check_return(former.as_ref(), known.as_ref(), profile, invitation)?;
    discard_mls(db, id)?;
    let tree = RatchetTreeIn::tls_deserialize_exact_bytes(record.ratchet_tree.as_slice())
        .map_err(|_| Error::Protocol("a join record holds no tree"))?;
    let welcome = parse(content.welcome.as_slice())?;
    // Lifetimes were judged when the leaves were added; a member of long standing is no reason not
    // to join.
    let staged = StagedWelcome::build_from_welcome(&provider, &join_config(), welcome)
        .map_err(|_| PeerError::Message)?
        .with_ratchet_tree(tree)
        .skip_lifetime_validation()
        .build()
        .map_err(|_| PeerError::Message)?;

    let by_own =
        invitation.info.attribution.signature_public_key.as_slice() == profile.identity.public();
    let (own, asked) = (staged.own_leaf_index(), devices::asked_in(db, id)?);
    let own_key = staged
        .members()
        .find(|member| member.index == own)
        .map(|member| member.signature_key);
    if by_own && !own_key.is_some_and(|key| asked.contains(&key)) {
        return Err(PeerError::Unauthenticated("this device has not asked for it").into());
    }
    if let Some(known) = &known {
        let mut members = staged.members();
        if members.any(|member| known.was_removed(&known::digest(&member.credential))) {
            return Err(PeerError::Unauthenticated("a leaf is in it that was removed").into());
        }
    }
    let name = match &former {
        Some(Group {
            name: Some(name), ..
        }) if by_member => name.clone(),
        // Somebody else's group is another one for the user, whatever its id.
        _ => {
            let wanted = String::from_utf8_lossy(invitation.info.group_name.as_slice());
            let wanted = text::received(&wanted, MAX_NAME);
            let by = invitation.info.attribution.signature_public_key.as_slice();
            if upgrade::passes_to(db, profile, &wanted, by)? {
                upgrade::give_up_name(db, &wanted)?;
                free_name(db, &wanted)?
            } else {
                free_name(db, &numbered(&wanted, 2))?
            }
        }
    };
    let group = Group {
        id: *id,
        kind: GroupKind::Group,
        name: Some(name.clone()),
        segment: segment(invitation, pointer, record)?,
        recovery: Secret::random()?,
        recovery_set: false,
        update_due: false,
        status: Status::Active,
    };
    db.execute("DELETE FROM groups WHERE group_id = ?", [id.0])?;
    refused::forget(db, id)?;
    group.insert(db)?;
    store_identities(db, profile, &group, &staged, record, invitation)?;
    let suite = staged.group_context().ciphersuite();
    let mls_group = staged.into_group(&provider).map_err(mls)?;
    if let Some(own_leaf) = mls_group.own_leaf_node() {
        Group::set_leaf_key(db, id, own_leaf.signature_key().as_slice())?;
    }
    known::remember(db, id, &mls_group)?;
    Group::set_codes_since(db, id, invitation.info.codes_since.0)?;
    devices::came_in(db, id)?;
    let by = invitation.info.attribution.signature_public_key.as_slice();
    crate::key_packages::used(db, by, suite)?;
    events::store(
        db,
        &Event::Joined {
            group: name,
            by: invitation.by.clone(),
        },
    )
}

/// Where the joiner reads on: after the commit that added it.
fn segment(
    invitation: &Invitation,
    pointer: &WelcomePointer,
    record: &JoinRecordContent,
) -> Result<Segment, Error> {
    let rotation = record.journal.rotation_epoch;
    check_place(record.place.rotation_epoch, record.place.position)?;
    let step = invitation
        .epoch
        .checked_sub(rotation.0)
        .and_then(|step| u32::try_from(step).ok())
        .ok_or(Error::Protocol("a join record is of another epoch"))?;
    // Who points here need not be who has added this client: what it says of the journal counts
    // only where the service has said the same to whoever was added.
    let agrees = (pointer.segment, pointer.place) == (record.segment, record.place);
    let told = pointer.chain != ChainHead([0; 32]);
    if !agrees || (told && pointer.chain != record.chain) {
        return Err(PeerError::Pointer.into());
    }
    // A commit that rotates is the last entry of the segment before.
    let is_same = record.place.rotation_epoch == rotation;
    if !is_same && step != 0 {
        return Err(Error::Protocol("a join record is of another place"));
    }
    let chain = match is_same {
        true => Some(record.chain).filter(|_| told),
        false => Some(crypto::journal::first_head(&record.segment)),
    };
    Ok(Segment {
        id: record.segment,
        rotation,
        step: Step(step),
        state_key: StateKey::from(&record.state_key),
        journal_key: JournalKey::from(&record.journal.journal_key),
        tag_key: TagKey::from(&record.journal.tag_key),
        tag_day: record.journal.tag_day,
        wrapper_key: IdentityLinkWrapperKey::from(&invitation.info.wrapper_key),
        next: match is_same {
            true => record.place.position.next(),
            false => Position(0),
        },
        chain,
        joined: None,
    })
}

/// Whether a Welcome may put something in the place of a group that this client was in: nothing
/// older, nothing of another kind, and where it has not been removed, on the word of a member only.
/// Says whether it is that.
fn check_return(
    former: Option<&Group>,
    known: Option<&Known>,
    profile: &Profile,
    invitation: &Invitation,
) -> Result<bool, Error> {
    let refused = |why| Err(PeerError::Unauthenticated(why).into());
    if former.is_some_and(|group| group.kind != GroupKind::Group) {
        return refused("an invitation names a group of another kind");
    }
    let Some(known) = known else {
        return Ok(false);
    };
    if invitation.epoch <= known.epoch {
        return refused("an invitation is older than what is known of the group");
    }
    let by = invitation.info.attribution.signature_public_key.as_slice();
    let by_member = known.has_person(by) || by == profile.identity.public();
    let stopped = former.is_some_and(|it| matches!(it.status, Status::Lost | Status::Refused));
    if stopped && !by_member {
        return refused("an invitation is not of a member");
    }
    Ok(by_member)
}

/// Opens every member's identity link. Who added us must be whom the invitation is attributed to.
fn store_identities(
    db: &Connection,
    profile: &Profile,
    group: &Group,
    staged: &StagedWelcome,
    record: &JoinRecordContent,
    invitation: &Invitation,
) -> Result<(), Error> {
    let adder = staged.welcome_sender_index();
    let own = staged.own_leaf_index();
    let mut people = Vec::new();
    let in_force = (group.segment.rotation, &group.segment.wrapper_key);
    let wrappers = Wrappers::walk(&group.id, in_force, &record.wrapper_chain);
    wrappers.keep(db, &group.id)?;
    for member in staged.members() {
        let mut identity = identities::found(
            db,
            group,
            &wrappers,
            &record.leaves,
            &LinkKeys::new(),
            &member,
        )?;
        if member.index == own {
            let user_pseudonym = leaf::pseudonymous(&member.credential, &member.signature_key)
                .ok_or(LocalError::Damaged)?
                .user_pseudonym;
            identity = Identity {
                user_pseudonym: user_pseudonym.as_slice().to_vec(),
                real: Some(profile.credential()?),
            };
        }
        if member.index == adder {
            let attributed = invitation.info.attribution.signature_public_key.as_slice();
            identity
                .real
                .as_ref()
                .filter(|real| real.signature_public_key.as_slice() == attributed)
                .ok_or(PeerError::Attribution)?;
        }
        identities::store(db, &group.id, &member.credential, &identity)?;
        let at = if member.index == own { 0 } else { people.len() };
        people.insert(at, (member.credential, identity));
    }
    people::take_impostors_for_nobody(db, &group.id, people)
}

impl Engine {
    /// Follows the invitations that have come. One that is not for us, not from a contact or too
    /// late is dropped.
    pub(crate) async fn follow_invitations(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        for invited in pointers::invited(&self.db, now_ms)? {
            match self.follow_invitation(&invited).await {
                // Refused for now, or not to be paid: it waits, and holds up no other one.
                Err(Error::Refused(refusal)) => {
                    let is_unknown = refusal.problem == ProblemType::UnknownRecord;
                    self.transact(|db, _| {
                        pointers::put_off(db, invited.row, (is_unknown, TRIES), now_ms)
                    })?;
                }
                Err(Error::Issuer(_)) => {}
                // It has answered meanwhile: what it holds back of one invitation holds up nothing
                // else.
                Err(Error::Unreachable(_)) if !self.transport.budget().left().is_zero() => {}
                Err(error @ (Error::Unreachable(_) | Error::Local(_))) => return Err(error),
                Err(error) => {
                    error.of_content()?;
                    pointers::done(&self.db, invited.row)?;
                }
                // What was said since, and perhaps that there is another invitation to follow.
                Ok(()) => crate::engine::refusals_can_wait(
                    self.read_group(&invited.pointer.group_id).await,
                )?,
            }
        }
        Ok(())
    }

    async fn follow_invitation(&mut self, invited: &Invited) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let entry = invited.name();
        if !evidence::may_try_again(&self.db, &entry, now_ms)? {
            return Ok(());
        }
        let content = match self.own_welcome(invited).await {
            Ok(Some(content)) => content,
            Ok(None) => return pointers::done(&self.db, invited.row),
            // The service's answer and not the Welcome, which opens under the pointer's key: it may
            // show the true one the next time.
            Err(Error::Protocol(_) | Error::Peer(_)) => {
                return self
                    .transact(|db, _| pointers::put_off(db, invited.row, (false, TRIES), now_ms));
            }
            Err(error) => return Err(error),
        };
        let invitation = match self.invitation(&content)? {
            Ok(invitation) if invitation.id == invited.pointer.group_id => invitation,
            Ok(_) => return Err(PeerError::Attribution.into()),
            Err(stranger) => {
                return self.transact(|db, profile| {
                    stranger.refuse(db, profile)?;
                    pointers::done(db, invited.row)
                });
            }
        };
        // Into a group that this client is in: when it has read how it goes out of that one.
        if self.is_in_before(&invitation)? {
            return Ok(());
        }
        match self.join_invited(invited, &content, &invitation).await {
            // The service's answer and not the Welcome: it may show another one the next time.
            Err(error @ (Error::Refused(_) | Error::Issuer(_))) => Err(error),
            Err(error) => {
                let fault = error.of_content()?;
                let content = (Some(&entry[..]), content.welcome.as_slice());
                evidence::keep(&self.db, &invitation.id, &fault, content, now_ms)?;
                Err(fault.into())
            }
            other => other,
        }
    }

    /// Whether this client is in the group, at an epoch before the one that it is invited to.
    fn is_in_before(&self, invitation: &Invitation) -> Result<bool, Error> {
        let group = Group::find(&self.db, &invitation.id)?;
        if !group.is_some_and(|group| group.status == Status::Active) {
            return Ok(false);
        }
        let mls_group = crate::groups::load_mls(&self.db, &invitation.id)?;
        Ok(mls_group.epoch().as_u64() < invitation.epoch)
    }

    /// The Welcome of the device of a pointer whose KeyPackage is this client's; none if none is.
    async fn own_welcome(&mut self, invited: &Invited) -> Result<Option<WelcomeContent>, Error> {
        for device in &invited.pointer.devices {
            if !self.has_key_package(device.key_package_ref.as_slice())? {
                continue;
            }
            let request = FetchWelcomeRequest {
                version: WIRE_VERSION,
                id: device.id,
            };
            let fetched: FetchWelcomeResponse = match self
                .read(Operation::FetchWelcome, &request)
                .await
            {
                // Expired, or not there yet.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownRecord => {
                    return Err(Error::Refused(refusal));
                }
                fetched => fetched?,
            };
            let key = Invited::key_of(device);
            return welcomes::open(&device.id, &key, fetched.sealed.as_slice()).map(Some);
        }
        Ok(None)
    }

    /// Whether the private part of a KeyPackage is here.
    fn has_key_package(&self, reference: &[u8]) -> Result<bool, Error> {
        use openmls_sqlite_storage::Codec as _;
        let reference = openmls::prelude::hash_ref::KeyPackageRef::tls_deserialize_exact_bytes(
            &opaque(reference).encode(),
        )
        .map_err(|_| PeerError::Message)?;
        let key =
            crate::provider::JsonCodec::to_vec(&reference).map_err(|_| LocalError::Damaged)?;
        Ok(self
            .db
            .query_row(
                "SELECT 1 FROM openmls_key_packages WHERE key_package_ref = ?",
                [key],
                |_| Ok(()),
            )
            .optional()?
            .is_some())
    }

    fn invitation(
        &mut self,
        content: &WelcomeContent,
    ) -> Result<Result<Invitation, Stranger>, Error> {
        let transaction = begin(&mut self.db)?;
        let invitation = invitation(&transaction, &self.profile, content);
        transaction.rollback()?;
        invitation
    }

    async fn join_invited(
        &mut self,
        invited: &Invited,
        content: &WelcomeContent,
        invitation: &Invitation,
    ) -> Result<(), Error> {
        let former = Group::find(&self.db, &invitation.id)?;
        let known = known::of(&self.db, &invitation.id)?;
        check_return(former.as_ref(), known.as_ref(), &self.profile, invitation)?;
        match self.join_by_record(invited, content, invitation).await {
            // What does not fit may be the record, which the service shows, and not the Welcome,
            // which it cannot make. So the invitation waits: one answer takes nobody's group away.
            Err(Error::Peer(fault)) => {
                self.wait_for_record(invited, content, invitation, (fault, MISFITS))
            }
            Err(Error::Protocol(_)) => self.wait_for_record(
                invited,
                content,
                invitation,
                (PeerError::JoinRecord, MISFITS),
            ),
            Err(Error::Refused(refusal)) if !refusal.is_for_now() => {
                self.wait_for_record(invited, content, invitation, (PeerError::JoinRecord, TRIES))
            }
            other => other,
        }
    }

    /// Keeps what was wrong and the invitation, which is tried ever more seldom: whoever makes one
    /// that never fits does not have this client fetch records without end. The user is told once.
    fn wait_for_record(
        &mut self,
        invited: &Invited,
        content: &WelcomeContent,
        invitation: &Invitation,
        (fault, most): (PeerError, u32),
    ) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        let entry = invited.name();
        self.transact(|db, _| {
            if evidence::tries(db, &entry)?.0 == 0 {
                let name = String::from_utf8_lossy(invitation.info.group_name.as_slice());
                let event = Event::InvitationWaits {
                    group: text::received(&name, MAX_NAME),
                    by: invitation.by.clone(),
                };
                events::store(db, &event)?;
            }
            let content = (Some(&entry[..]), content.welcome.as_slice());
            evidence::keep(db, &invitation.id, &fault, content, now_ms)?;
            pointers::put_off(db, invited.row, (false, most), now_ms)
        })
    }

    async fn join_by_record(
        &mut self,
        invited: &Invited,
        content: &WelcomeContent,
        invitation: &Invitation,
    ) -> Result<(), Error> {
        let mut record = self.join_record(invitation).await?;
        // A day that has not come is none of a journal's.
        let today = Day::of(self.transport.time.now_unix_ms());
        record.journal.tag_day = record.journal.tag_day.min(today);
        self.transact(|db, profile| {
            join(db, profile, content, &invited.pointer, invitation, &record)?;
            pointers::done(db, invited.row)
        })
    }

    /// The join record, all its pages.
    async fn join_record(&mut self, invitation: &Invitation) -> Result<JoinRecordContent, Error> {
        const DOES_NOT_OPEN: Error = Error::Protocol("a join record does not open");
        // A tree and what stands beside its leaves, within what a service takes, are less than half
        // of that.
        const MOST_PAGES: usize = 16 * 1024 * 1024 / JOIN_RECORD_PAGE;
        let key = &invitation.join_key;
        let id = key.record_id(&invitation.id);
        let mut bytes = zeroize::Zeroizing::new(Vec::new());
        let (mut page, mut pages) = (0, None);
        while pages.is_none_or(|pages| page < pages) {
            let request = JoinRecordRequest {
                version: WIRE_VERSION,
                id,
                page,
            };
            let shown: JoinRecordResponse = self.read(Operation::JoinRecord, &request).await?;
            if *pages.get_or_insert(shown.pages) != shown.pages
                || !(1..=MOST_PAGES).contains(&shown.pages.into())
            {
                return Err(DOES_NOT_OPEN);
            }
            let opened = open_join_page(key, &id, (page, shown.pages), shown.sealed.as_slice());
            bytes.extend_from_slice(&opened.map_err(|_| DOES_NOT_OPEN)?);
            page = page.saturating_add(1);
        }
        JoinRecordContent::decode(&bytes).map_err(|_| DOES_NOT_OPEN)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crypto::connection::sign_attribution;
    use crypto::sign::SignatureKeyPair;
    use protocol::codec::opaque;
    use protocol::connections::ClientCredential;

    use super::*;
    use crate::groups::known::KnownMember;
    use crate::groups::{load_mls, tests};

    /// A group of one, as this client keeps it.
    fn keep_group(db: &Connection, status: Status) -> GroupId {
        let group = Group {
            status,
            ..tests::group(7, "team")
        };
        tests::keep_mls_group(db, &group.id);
        group.insert(db).unwrap();
        group.id
    }

    #[test]
    fn an_invitation_puts_nothing_in_the_place_of_what_is_known_but_on_a_members_word() {
        let db = crate::database::in_memory().unwrap();
        let profile = crate::profile::tests::profile(&db);
        let [member, gone, stranger] = [1, 2, 3].map(|_| SignatureKeyPair::random().unwrap());
        let leaf = |key: &SignatureKeyPair, removed_epoch| KnownMember {
            credential: key.public().to_vec(),
            identity: Identity {
                user_pseudonym: Vec::new(),
                real: Some(ClientCredential {
                    name: opaque(*b"x"),
                    signature_public_key: opaque(key.public()),
                }),
            },
            removed_epoch,
        };
        let known = Known {
            epoch: 10,
            own_leaf: 0,
            external_senders: Vec::new(),
            policy: None,
            members: vec![leaf(&member, None), leaf(&gone, Some(9))],
        };
        let judge = |status, kind, by: &SignatureKeyPair, epoch| {
            let former = Group {
                status,
                kind,
                ..tests::group(7, "team")
            };
            let wrapper = IdentityLinkWrapperKey::new([2; 32]);
            let invitation = Invitation {
                id: former.id,
                epoch,
                join_key: JoinKey::new([1; 32]),
                info: JoinInfo {
                    wrapper_key: wrapper.to_wire(),
                    group_name: opaque(*b"team"),
                    codes_since: protocol::ids::Epoch(0),
                    attribution: sign_attribution(by, &former.id, epoch, &wrapper, b"team"),
                },
                by: "x".to_owned(),
            };
            check_return(Some(&former), Some(&known), &profile, &invitation).ok()
        };
        let group = GroupKind::Group;
        for stopped in [Status::Lost, Status::Refused] {
            assert_eq!(judge(stopped, group, &member, 11), Some(true));
            assert_eq!(judge(stopped, group, &member, 10), None);
            assert_eq!(judge(stopped, group, &gone, 11), None);
            assert_eq!(judge(stopped, group, &stranger, 11), None);
        }
        // Who was removed can be added again by anybody: under a name of its own, if it is no
        // member.
        assert_eq!(judge(Status::Removed, group, &member, 11), Some(true));
        assert_eq!(judge(Status::Removed, group, &stranger, 11), Some(false));
        assert_eq!(judge(Status::Removed, group, &member, 10), None);
        for other in [GroupKind::Connection, GroupKind::SingleUser] {
            for status in [Status::Lost, Status::Removed, Status::Closed] {
                assert_eq!(judge(status, other, &member, 11), None);
            }
        }
    }

    /// A pointer to a group's Welcome, and the join record that goes with it.
    fn of_one_journal(id: GroupId) -> (WelcomePointer, JoinRecordContent) {
        let place = protocol::journal::Place {
            rotation_epoch: protocol::ids::RotationEpoch(0),
            position: Position(3),
        };
        let record = JoinRecordContent {
            ratchet_tree: opaque(*b""),
            state_key: StateKey::new([9; 32]).to_wire(),
            journal: protocol::group::JournalKeys {
                rotation_epoch: protocol::ids::RotationEpoch(0),
                journal_key: protocol::codec::WireSecret::new([1; 32]),
                tag_key: protocol::codec::WireSecret::new([1; 32]),
                tag_day: protocol::ids::Day(1),
            },
            segment: protocol::ids::SegmentId([1; 32]),
            place,
            chain: ChainHead([5; 32]),
            leaves: Vec::new(),
            wrapper_chain: Vec::new(),
        };
        let pointer = WelcomePointer {
            group_id: id,
            epoch: protocol::ids::Epoch(100),
            segment: record.segment,
            place,
            chain: record.chain,
            devices: Vec::new(),
        };
        (pointer, record)
    }

    #[test]
    fn a_join_record_of_another_place_than_the_pointers_is_not_read_on_from() {
        let identity = SignatureKeyPair::random().unwrap();
        let id = GroupId([7; 16]);
        let wrapper = IdentityLinkWrapperKey::new([2; 32]);
        let invitation = Invitation {
            id,
            epoch: 100,
            join_key: JoinKey::new([1; 32]),
            info: JoinInfo {
                wrapper_key: wrapper.to_wire(),
                group_name: opaque(*b"team"),
                codes_since: protocol::ids::Epoch(0),
                attribution: sign_attribution(&identity, &id, 100, &wrapper, b"team"),
            },
            by: "alice".to_owned(),
        };
        for chain in [[0; 32], [5; 32]] {
            let (mut pointer, record) = of_one_journal(id);
            pointer.chain = ChainHead(chain);
            let found = segment(&invitation, &pointer, &record).unwrap();
            assert_eq!(found.next, Position(4));
            for wrong in [0, 1, 2, 4, 5] {
                let (_, mut record) = of_one_journal(id);
                record.place.position = Position(wrong);
                let refused = segment(&invitation, &pointer, &record);
                assert!(
                    matches!(refused, Err(Error::Peer(PeerError::Pointer))),
                    "{wrong}"
                );
            }
        }
    }

    #[test]
    fn a_welcome_into_a_group_that_this_client_is_in_has_no_effect() {
        let identity = SignatureKeyPair::random().unwrap();
        for status in [Status::Active, Status::Joining] {
            let db = crate::database::in_memory().unwrap();
            let profile = crate::profile::tests::profile(&db);
            let id = keep_group(&db, status);
            let wrapper = IdentityLinkWrapperKey::new([2; 32]);
            let invitation = Invitation {
                id,
                epoch: 100,
                join_key: JoinKey::new([1; 32]),
                info: JoinInfo {
                    wrapper_key: wrapper.to_wire(),
                    group_name: opaque(*b"team"),
                    codes_since: protocol::ids::Epoch(0),
                    attribution: sign_attribution(&identity, &id, 100, &wrapper, b"team"),
                },
                by: "mallory".to_owned(),
            };
            let content = WelcomeContent {
                welcome: opaque(*b"of a group with the same id"),
                join_info: opaque(*b""),
            };
            let (pointer, record) = of_one_journal(id);
            join(&db, &profile, &content, &pointer, &invitation, &record).unwrap();
            assert_eq!(load_mls(&db, &id).unwrap().epoch().as_u64(), 0);
            let kept = Group::read(&db, &id).unwrap();
            assert_eq!(kept.status, status);
            assert_eq!(kept.segment.state_key, StateKey::new([1; 32]));
        }
    }
}
