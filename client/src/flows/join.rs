//! Joining by Welcome: it is found by a pointer, and with it and the join record a client is in.

use crypto::records::open_join_page;
use protocol::join::{JOIN_RECORD_PAGE, JoinRecordContent, JoinRecordRequest, JoinRecordResponse};
use protocol::operation::Operation;
use protocol::problem::ProblemType;
use protocol::welcome::{FetchWelcomeRequest, FetchWelcomeResponse, WelcomeContent};
use protocol::{WIRE_VERSION, Wire as _};

use crate::engine::Engine;
use crate::error::{Error, PeerError};
use crate::flows::act::in_any_order;
use crate::group_profile::MAX_NAME;
use crate::mls::join::{Invitation, Stranger, check_return, invitation, join};
use crate::mls::welcomes;
use crate::store::database::begin;
use crate::store::mls::own_key_package;
use crate::store::pointers::{self, Invited, MISFITS, TRIES};
use crate::store::segments::day_said;
use crate::store::{Event, Group, Status, events, evidence, known};
use crate::text;

impl Engine {
    /// Follows the invitations that have come. One that is not for us, not from a contact or too
    /// late is dropped.
    pub(crate) async fn follow_invitations(&mut self) -> Result<(), Error> {
        let now_ms = self.transport.time.now_unix_ms();
        for invited in in_any_order(pointers::invited(&self.db, now_ms)?)? {
            if self.has_acted() {
                break;
            }
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
                Ok(()) => crate::error::refusals_can_wait(
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
        let mls_group = self.mls(&invitation.id)?;
        Ok(mls_group.epoch().as_u64() < invitation.epoch)
    }

    /// The Welcome of the device of a pointer whose KeyPackage is this client's; none if none is.
    async fn own_welcome(&mut self, invited: &Invited) -> Result<Option<WelcomeContent>, Error> {
        for device in &invited.pointer.devices {
            if own_key_package(&self.db, device.key_package_ref.as_slice())?.is_none() {
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
        let now_ms = self.transport.time.now_unix_ms();
        record.journal.tag_day = day_said(record.journal.tag_day, now_ms);
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
    use crate::mls::join::segment;
    use crate::store::groups::tests;
    use crate::store::identities::Identity;
    use crate::store::known::Known;
    use crate::store::known::KnownMember;
    use crate::store::mls::load_mls;
    use crypto::keys::IdentityLinkWrapperKey;
    use crypto::schedule::{JoinKey, StateKey};
    use protocol::group::GroupKind;
    use protocol::ids::{ChainHead, GroupId, Position};
    use protocol::welcome::{JoinInfo, WelcomePointer};
    use rusqlite::Connection;

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
        let db = crate::store::database::in_memory().unwrap();
        let profile = crate::store::profile::tests::profile(&db);
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
            ciphersuite: crate::leaf::CIPHERSUITE.into(),
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
            let db = crate::store::database::in_memory().unwrap();
            let profile = crate::store::profile::tests::profile(&db);
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
