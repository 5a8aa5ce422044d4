//! Join codes: whoever has one comes in by itself, without being a contact of anybody.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crypto::credential::random_pseudonym;
use crypto::journal::join_code_tbs;
use crypto::schedule::{JoinCodeSecret, recovery_row_id};
use openmls::prelude::Ciphersuite;
use protocol::Wire as _;
use protocol::codec::{WireSecret, opaque};
use protocol::group::{
    Accepted, GroupKind, JOIN_CODE_LABEL, JoinCode, JoinCodeChange, MAX_JOIN_CODE_WEEKS,
    NewJoinCode, SetJoinCodeRequest,
};
use protocol::ids::{Epoch, GroupId, LeafIndex, Week};
use protocol::join::JoinPermit;
use protocol::operation::Operation;
use protocol::policy::Capabilities;
use protocol::problem::ProblemType;
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize, VLBytes};
use zeroize::Zeroizing;

use crate::engine::Engine;
use crate::error::{Error, UsageError};
use crate::ids::GroupRef;
use crate::leaf::{self, own_pseudonym};
use crate::mls::authenticate::{self, Sight};
use crate::mls::external::Entrance;
use crate::mls::new_leaf::NewLeaf;
use crate::mls::policy::{capabilities, policy_in};
use crate::mls::profile::name_for_others;
use crate::mls::rows;
use crate::store::groups::free_name;
use crate::store::{Group, Segment, Status, known};

const VERSION: u16 = 1;
/// The state key may change between the look-up and the commit.
const ROUNDS: u32 = 3;

/// What a join code says, in base64url.
#[derive(Debug, TlsSize, TlsSerialize, TlsDeserializeBytes)]
pub(crate) struct PrintedJoinCode {
    /// [`VERSION`].
    version: u16,
    group_id: GroupId,
    /// MLS ciphersuite number.
    ciphersuite: u16,
    /// Finds and opens the way into the group, and lets its holder in.
    secret: WireSecret,
    /// In which it was made: whoever comes in by it is shown nothing older.
    epoch: u64,
    /// UTF-8; may be empty.
    group_name: VLBytes,
    /// The first 16 bytes of the SHA-256 of its maker's identity key, if there was nobody else in
    /// the group then; else empty.
    alone: VLBytes,
}

impl PrintedJoinCode {
    pub(crate) fn print(&self) -> String {
        URL_SAFE_NO_PAD.encode(&*Zeroizing::new(self.encode()))
    }

    fn parse(code: &str) -> Result<Self, UsageError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(code.trim())
            .map(Zeroizing::new)
            .map_err(|_| UsageError::InvalidJoinCode)?;
        Self::decode(&bytes)
            .ok()
            .filter(|code| code.version == VERSION)
            .ok_or(UsageError::InvalidJoinCode)
    }
}

/// One week less than the service takes: a clock that is ahead may be in the next week already.
pub(crate) const MOST_WEEKS: u16 = MAX_JOIN_CODE_WEEKS - 1;

impl Engine {
    /// Makes a join code that is good for so many days (at most a year). It is a secret: whoever
    /// has it can come in until then, or until it is revoked.
    ///
    /// # Errors
    /// [`UsageError::NotPermitted`]; the problem `limit-exceeded` when there are too many codes.
    pub(crate) async fn invite(&mut self, group: &GroupRef, days: u32) -> Result<String, Error> {
        let _held = self.hold().await?;
        let group = self.sync_for(group).await?;
        let mls_group = self.mls(&group.id)?;
        let policy = policy_in(mls_group.extensions())?;
        let may = capabilities(policy.as_ref(), &own_pseudonym(&mls_group)?);
        if !may.contain(Capabilities::ADD) {
            return Err(UsageError::NotPermitted.into());
        }
        let secret = crypto::random::<32>()?;
        let name = name_for_others(&self.db, &group, mls_group.extensions())?;
        let code = PrintedJoinCode {
            version: VERSION,
            group_id: group.id,
            ciphersuite: u16::from(mls_group.ciphersuite()),
            secret: WireSecret::new(secret),
            epoch: mls_group.epoch().as_u64(),
            group_name: opaque(name.as_bytes()),
            alone: opaque(authenticate::who_is_alone(&self.db, &group.id)?),
        };
        let week = Week::of(self.transport.time.now_unix_ms());
        let weeks = u16::try_from(days.max(1).div_ceil(7)).unwrap_or(u16::MAX);
        let expiry = Week(week.0.saturating_add(weeks.min(MOST_WEEKS)));
        self.make_code(&group.id, &secret, expiry).await?;
        Ok(code.print())
    }

    /// Has the service let in whoever has this secret.
    pub(crate) async fn make_code(
        &mut self,
        id: &GroupId,
        secret: &[u8; 32],
        expiry: Week,
    ) -> Result<(), Error> {
        let _: Accepted = self
            .as_member(id, Operation::SetJoinCode, |client, group| {
                let mls_group = client.mls(&group.id)?;
                let (_, signer) = client.own_sender(&group.id)?;
                let key = JoinCodeSecret::new(*secret);
                let suite = mls_group.ciphersuite();
                let pair = rows::key_pair(suite, &key.hpke_seed())?;
                let mut public = JoinCode {
                    permit_hash: key.permit().hash(),
                    public_key: opaque(pair.public()),
                    expiry,
                    epoch: Epoch(mls_group.epoch().as_u64()),
                    maker: LeafIndex(mls_group.own_leaf_index().u32()),
                    signature: opaque(*b""),
                };
                let tbs = join_code_tbs(&group.id, &public);
                public.signature = opaque(signer.sign(JOIN_CODE_LABEL, &tbs));
                let request = SetJoinCodeRequest {
                    group: group.key(),
                    change: JoinCodeChange::Make(NewJoinCode {
                        code: public,
                        row: rows::seal(suite, &group.id, &group.segment, pair.public())?,
                    }),
                };
                Ok(request.encode())
            })
            .await?;
        Ok(())
    }

    /// Revokes a join code of a group that this client is in.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::NotAMember`].
    pub(crate) async fn revoke_invitation(&mut self, code: &str) -> Result<(), Error> {
        let _held = self.hold().await?;
        let code = PrintedJoinCode::parse(code)?;
        self.sync().await?;
        let group = Group::find(&self.db, &code.group_id)?
            .ok_or_else(|| UsageError::NotAMember(shown(&code)))?;
        group.check_usable()?;
        let suite = leaf::ciphersuite(code.ciphersuite)
            .ok_or(UsageError::UnknownCiphersuite(code.ciphersuite))?;
        let seed = JoinCodeSecret::new(*code.secret.expose()).hpke_seed();
        let pair = rows::key_pair(suite, &seed)?;
        let row = recovery_row_id(&group.id, pair.public());
        let _: Accepted = self
            .as_member(&group.id, Operation::SetJoinCode, |_, group| {
                let request = SetJoinCodeRequest {
                    group: group.key(),
                    change: JoinCodeChange::Revoke(row),
                };
                Ok(request.encode())
            })
            .await?;
        Ok(())
    }

    /// Comes into a group by a join code and returns the name that it has here.
    ///
    /// # Errors
    /// [`UsageError::InvalidJoinCode`], [`UsageError::JoinCodeExpired`],
    /// [`UsageError::AlreadyAMember`].
    pub(crate) async fn join_by_code(&mut self, code: &str) -> Result<String, Error> {
        let _held = self.hold().await?;
        let code = PrintedJoinCode::parse(code)?;
        let suite = leaf::ciphersuite(code.ciphersuite)
            .ok_or(UsageError::UnknownCiphersuite(code.ciphersuite))?;
        self.profile.credential()?;
        self.sync().await?;
        let id = code.group_id;
        let former = Group::find(&self.db, &id)?;
        let name = match &former {
            Some(group) if group.kind != GroupKind::Group => {
                return Err(UsageError::InvalidJoinCode.into());
            }
            Some(group) if matches!(group.status, Status::Active | Status::Joining) => {
                let own = self.profile.handle.clone().unwrap_or_default();
                return Err(UsageError::AlreadyAMember(own).into());
            }
            Some(Group {
                name: Some(name), ..
            }) => name.clone(),
            _ => free_name(&self.db, &shown(&code))?,
        };
        let directory = self.directory().await?;
        let known = known::of(&self.db, &id)?;
        let secret = JoinCodeSecret::new(*code.secret.expose());
        self.enter_by_code(&id, suite, &secret, |client, segment, permit| {
            let pseudonym = random_pseudonym(&directory.domain)?;
            Ok(Entrance {
                id,
                kind: GroupKind::Group,
                name: Some(name.clone()),
                segment,
                leaf: NewLeaf::of_user(&client.profile, &directory, suite, pseudonym)?,
                permit,
                authorization: None,
                answer: None,
                sight: Sight::Code {
                    epoch: code.epoch,
                    suite,
                    alone: code.alone.as_slice().to_vec(),
                    known: known.clone(),
                },
            })
        })
        .await?;
        Ok(name)
    }

    /// Comes in by a code, through the row that is sealed to it.
    ///
    /// # Errors
    /// [`UsageError::JoinCodeExpired`].
    pub(crate) async fn enter_by_code(
        &mut self,
        id: &GroupId,
        suite: Ciphersuite,
        secret: &JoinCodeSecret,
        entrance: impl Fn(&Self, Segment, JoinPermit) -> Result<Entrance, Error>,
    ) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let found = self
                .recovered_segment(id, suite, &secret.hpke_seed())
                .await?
                .ok_or(UsageError::JoinCodeExpired)?;
            let Some(segment) = self.at_its_end(found).await? else {
                continue;
            };
            let permit = JoinPermit::JoinCode(secret.permit().to_wire());
            let entrance = entrance(self, segment, permit)?;
            match self.enter(&entrance).await {
                // It has rotated meanwhile.
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::UnknownGroup => {}
                Err(Error::Refused(refusal)) if refusal.problem == ProblemType::NotAllowed => {
                    return Err(UsageError::JoinCodeExpired.into());
                }
                other => return other,
            }
        }
        Err(UsageError::JoinCodeExpired.into())
    }
}

fn shown(code: &PrintedJoinCode) -> String {
    String::from_utf8_lossy(code.group_name.as_slice()).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn code() -> PrintedJoinCode {
        PrintedJoinCode {
            version: VERSION,
            group_id: GroupId([1; 16]),
            ciphersuite: 1,
            secret: WireSecret::new([2; 32]),
            epoch: 4,
            group_name: opaque(*b"team"),
            alone: opaque([3; 16]),
        }
    }

    #[test]
    fn a_join_code_is_read_as_it_was_printed() {
        let read = PrintedJoinCode::parse(&format!(" {}\n", code().print())).unwrap();
        assert_eq!(read.encode(), code().encode());
    }

    #[test]
    fn a_code_of_a_later_version_or_with_more_behind_it_is_refused() {
        let later = PrintedJoinCode {
            version: VERSION + 1,
            ..code()
        };
        let longer = format!("{}AA", code().print());
        for code in [later.print(), longer, String::new()] {
            assert_eq!(
                PrintedJoinCode::parse(&code).unwrap_err(),
                UsageError::InvalidJoinCode
            );
        }
    }
}
