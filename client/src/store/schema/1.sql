-- Who this client is, and where its services are. One row.
CREATE TABLE profile (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    endpoints TEXT NOT NULL,
    account_token TEXT NOT NULL,
    identity_seed BLOB NOT NULL,
    establishment_seed BLOB NOT NULL,
    connection_key BLOB NOT NULL,
    handle_owner_seed BLOB NOT NULL,
    -- The inbox of the handle: its id and the key that reads it occur nowhere else.
    inbox_id BLOB NOT NULL,
    inbox_owner_seed BLOB NOT NULL,
    -- When the inbox is read next in the background, milliseconds since 1970: a time of its own.
    inbox_due_ms INTEGER NOT NULL DEFAULT 0,
    handle TEXT,
    -- When its record is renewed (milliseconds since 1970), 0 before that was drawn.
    handle_due_ms INTEGER NOT NULL DEFAULT 0,
    device_id BLOB NOT NULL,
    device_name TEXT NOT NULL,
    -- Whether this client takes groups with X-Wing: its leaves say so.
    takes_post_quantum INTEGER NOT NULL DEFAULT 1,
    -- The group of this user's devices, once there is a second one.
    device_group BLOB,
    -- The last day on which sets were published because the service said that they are gone, and how often.
    refill_day INTEGER NOT NULL DEFAULT 0,
    refills INTEGER NOT NULL DEFAULT 0,
    -- What a removed device still knows and has to be made worthless: 1 the tokens of pools, 2 the handle's keys.
    keys_due INTEGER NOT NULL DEFAULT 0,
    -- When the wallet is filled up next, and whether it was due while the client was away and has been put off since,
    next_top_up_ms INTEGER NOT NULL DEFAULT 0,
    top_up_put_off INTEGER NOT NULL DEFAULT 0,
    -- when a token was spent last, and whether the next filling has been brought forward already.
    last_spent_ms INTEGER NOT NULL DEFAULT 0,
    top_up_hastened INTEGER NOT NULL DEFAULT 0,
    clock_offset_ms INTEGER NOT NULL DEFAULT 0,
    ohttp_key_config BLOB,
    directory TEXT,
    -- The directory as relay and service showed it when the service's own sender key in a group was in question (JSON).
    directory_heard TEXT,
    -- What independent views of keys and directory agreed on, and when they are compared next (JSON).
    views TEXT
) STRICT;

-- What the file beside the database says while both are this home's: see copies.rs. At most one row.
CREATE TABLE home_marker (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token BLOB NOT NULL,
    -- What the file's inode says, as text: number and time of change.
    inode TEXT NOT NULL,
    -- The token that is about to be written.
    next BLOB
) STRICT;

-- Files that are being uploaded or that no message tells of yet, and the keys that delete what was uploaded, until it
-- expires.
CREATE TABLE uploads (
    -- The id at the service.
    blob BLOB PRIMARY KEY,
    -- Where the file is; this and the keys that open it are NULL once a message tells of it.
    place TEXT,
    -- Of the file's content when its upload began: nothing else is ever sealed under these keys.
    digest BLOB,
    capability BLOB,
    content_key BLOB,
    nonce BLOB,
    write_key BLOB NOT NULL,
    last_day INTEGER NOT NULL
) STRICT;

-- Unspent tokens. One that was sent is deleted, whatever the answer: it has been seen.
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    token BLOB NOT NULL UNIQUE,
    in_use INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Tokens that were asked for and have not come: the very request, so that asking again is the same request, and what
-- makes tokens out of its answer. At most one row.
CREATE TABLE token_batch (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- 1: a generic batch, 0: a single request.
    generic INTEGER NOT NULL,
    -- The issuer's key (SPKI) and the digest of the challenge.
    token_key BLOB NOT NULL,
    challenge_digest BLOB NOT NULL,
    request BLOB NOT NULL,
    -- Of each token: its input (RFC 9578 §6.1) and the inverse of its blinding factor.
    blinding BLOB NOT NULL
) STRICT;

-- Tokens that were paid because the service refused a request, by day (since the Unix epoch).
CREATE TABLE paid_for_refusals (
    day INTEGER PRIMARY KEY,
    tokens INTEGER NOT NULL
) STRICT;

CREATE TABLE contacts (
    signature_key BLOB PRIMARY KEY,
    handle TEXT NOT NULL UNIQUE,
    -- What this user calls the contact instead, NULL for nothing else; and how often that was changed.
    known_as TEXT UNIQUE,
    renamed INTEGER NOT NULL DEFAULT 0,
    connection_key BLOB NOT NULL,
    -- Claims KeyPackages of the contact.
    connection_token BLOB NOT NULL,
    -- The own pool that this contact claims from, and nobody else; and what only its owner does with it.
    pool_token BLOB NOT NULL,
    pool_owner_seed BLOB NOT NULL,
    -- How many pools there were: what another device says of a former one changes nothing.
    pool_generation INTEGER NOT NULL,
    -- 1: sets were published that lack a package of some device; the pool is emptied with the next publication.
    pool_stale INTEGER NOT NULL DEFAULT 0,
    -- 1: this device has made the pool, and published nothing in it yet.
    pool_new INTEGER NOT NULL DEFAULT 0,
    -- When the service is asked next what it has in the pool; a random time.
    pool_due_ms INTEGER NOT NULL DEFAULT 0,
    -- 1: the contact does not know the token of its pool yet.
    token_due INTEGER NOT NULL DEFAULT 0,
    -- How many pools that were made for the contact were filled on a day, and which day that was.
    new_pools INTEGER NOT NULL DEFAULT 0,
    new_pools_day INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE incoming_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signature_key BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    request BLOB NOT NULL
) STRICT;

-- Connection requests that came (SHA-256 of what the inbox held), the latest ones: the service shows none of them again.
CREATE TABLE requests_taken (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE
) STRICT;

CREATE TABLE outgoing_requests (
    handle TEXT PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    credential BLOB NOT NULL,
    response_seed BLOB NOT NULL,
    -- Lets the recipient into the group.
    code BLOB NOT NULL
) STRICT;

-- Connection groups that were made ahead, each with a code for whoever is asked into it.
CREATE TABLE connection_stock (
    group_id BLOB PRIMARY KEY,
    code BLOB NOT NULL,
    -- When the service took the code (milliseconds since 1970); 0 before.
    made_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Groups that this client is or was in; the MLS library's own state stands beside it.
CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,
    kind INTEGER NOT NULL,
    name TEXT UNIQUE,
    -- Seed of the key pair that others seal the way back to, and 0 while the service does not have its public half.
    recovery_seed BLOB NOT NULL,
    recovery_set INTEGER NOT NULL,
    -- 1: somebody else knew the leaf's key, or the library kept it: it must be replaced.
    update_due INTEGER NOT NULL DEFAULT 0,
    -- When the own leaf is renewed next (milliseconds since 1970), 0 before that was drawn.
    renewal_ms INTEGER NOT NULL DEFAULT 0,
    -- 1: rows that let members come back are to be written for this segment.
    rows_due INTEGER NOT NULL DEFAULT 0,
    -- 'joining' until the service accepted the creation or join, then 'active', 'removed', 'lost', 'refused', 'closed'.
    status TEXT NOT NULL,
    -- The own leaf's public key: what is left to come back with when the MLS library's state is gone.
    leaf_key BLOB,
    -- Join codes that were made before this epoch have ended, or it is not known whether they have; at first all.
    codes_since INTEGER NOT NULL DEFAULT 9223372036854775807,
    -- 1: this client wants to leave; a proposal that lapses with its epoch is made again.
    leaving INTEGER NOT NULL DEFAULT 0,
    -- How often this client has tried by itself to come back.
    rejoin_attempts INTEGER NOT NULL DEFAULT 0,
    -- The other devices know which leaf is ours.
    announced INTEGER NOT NULL DEFAULT 0,
    -- This client came in from outside and has heard nobody since: it sends nothing. The identity key of whoever signed
    -- what it came in by, empty if anybody counts; NULL once somebody else was heard.
    unheard BLOB,
    -- Why this client has stopped following; NULL if it has not.
    stopped TEXT,
    -- The last day (since the Unix epoch) on which the journal was read to its end; 0 before the first.
    read_day INTEGER NOT NULL DEFAULT 0,
    -- What this client tells of others' messages: 0 nothing, 1 that they have arrived, 2 that they were read.
    receipts INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Where this client is in the journal of a group: the segment that it reads, the keys of its step, what it has read.
CREATE TABLE segments (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    segment_id BLOB NOT NULL,
    rotation_epoch INTEGER NOT NULL,
    step INTEGER NOT NULL,
    state_key BLOB NOT NULL,
    -- Zeros in a group that is known from a backup: its journal is not read before this client has come back.
    journal_key BLOB NOT NULL,
    tag_key BLOB NOT NULL,
    tag_day INTEGER NOT NULL,
    wrapper_key BLOB NOT NULL,
    -- The position that is read next, and the chain before it: NULL while it is not known.
    next INTEGER NOT NULL,
    chain BLOB,
    -- Where the own commit stands by which this client came in, as the service says; NULL once that was looked at.
    joined INTEGER,
    -- The last signed end that was shown (encoded SignedHead).
    head BLOB,
    -- The day of the last entry that was read; tag_day may be later.
    day INTEGER NOT NULL
) STRICT;

-- Wrapper keys of segments that this client was in: what the policy says of people stays under the one of its time.
CREATE TABLE wrappers (
    group_id BLOB NOT NULL,
    rotation_epoch INTEGER NOT NULL,
    wrapper_key BLOB NOT NULL,
    PRIMARY KEY (group_id, rotation_epoch)
) STRICT;

-- The chain before each position of segments that were read: what others have seen is held against it.
CREATE TABLE chains (
    segment_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    group_id BLOB NOT NULL,
    chain BLOB NOT NULL,
    PRIMARY KEY (segment_id, position)
) STRICT;

-- Signed ends of segments that are over: told for some weeks, since whoever was led elsewhere knows no later ones.
CREATE TABLE ended_segments (
    segment_id BLOB PRIMARY KEY,
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    -- Encoded SignedHead.
    head BLOB NOT NULL,
    -- When it was over (since the Unix epoch).
    day INTEGER NOT NULL
) STRICT;

-- Signed ends that others have seen and this client has not come to.
CREATE TABLE heads_ahead (
    segment_id BLOB NOT NULL,
    position INTEGER NOT NULL,
    -- Encoded SignedHead.
    head BLOB NOT NULL,
    -- The credential (its digest) that told of it.
    teller BLOB NOT NULL,
    PRIMARY KEY (segment_id, position, head)
) STRICT;

-- Who is behind a leaf credential (SHA-256 of it); kept after a removal, for late messages.
CREATE TABLE identities (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    credential BLOB NOT NULL,
    user_pseudonym BLOB NOT NULL,
    name TEXT,
    signature_key BLOB,
    -- 1: the user goes on although this leaf cannot show whose it is.
    accepted INTEGER NOT NULL DEFAULT 0,
    -- Opens the identity link, and under which wrapper key the service has it (its rotation epoch).
    link_key BLOB,
    wrapper INTEGER,
    PRIMARY KEY (group_id, credential)
) STRICT;

-- What is known of a group, whatever becomes of the MLS library's state of it and of its row in `groups`: the service
-- is held against it.
CREATE TABLE known_groups (
    group_id BLOB PRIMARY KEY,
    -- The highest epoch that this client was in.
    epoch INTEGER NOT NULL,
    -- The own leaf in that epoch.
    own_leaf INTEGER NOT NULL,
    -- The external senders (RFC 9420 §12.1.8.1) of that epoch, encoded one after the other.
    external_senders BLOB NOT NULL,
    -- Its ciphersuite (RFC 9420 §17.1): a group of this id has no other one.
    ciphersuite INTEGER NOT NULL,
    -- The group's policy (encoded GroupPolicy) in that epoch; NULL if there was none, or if it is not known.
    policy BLOB
) STRICT;

-- Every leaf that was ever seen in a group.
CREATE TABLE known_members (
    group_id BLOB NOT NULL,
    -- SHA-256 of the leaf's credential.
    credential BLOB NOT NULL,
    user_pseudonym BLOB NOT NULL,
    -- NULL if the identity link did not open.
    name TEXT,
    signature_key BLOB,
    -- The epoch in which it was no longer there; NULL while it is.
    removed_epoch INTEGER,
    -- Day (since the Unix epoch) of the latest message or commit of this leaf; 0 before the first.
    heard_day INTEGER NOT NULL DEFAULT 0,
    -- The same for its latest commit.
    committed_day INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, credential)
) STRICT;

-- What a lying service or member would deny: kept for good.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    -- The epoch that this client was in.
    epoch INTEGER NOT NULL,
    -- What brought it: segment and position of an entry, or an invitation; NULL for another answer.
    entry BLOB,
    why TEXT NOT NULL,
    content BLOB NOT NULL,
    seen_ms INTEGER NOT NULL
) STRICT;

-- Members whom the user was shown before coming back: the key of their identity, or the credential's digest.
CREATE TABLE shown_members (
    group_id BLOB NOT NULL,
    member BLOB NOT NULL,
    PRIMARY KEY (group_id, member)
) STRICT;

-- Why the service proposes removals (encoded RemovalReason), by leaf; of the present epoch only.
CREATE TABLE removal_reasons (
    group_id BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    reason BLOB NOT NULL,
    PRIMARY KEY (group_id, leaf_index)
) STRICT;

-- Newcomers who were kept out before, and who are removed by whoever may.
CREATE TABLE kept_out (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    user_pseudonym BLOB NOT NULL,
    PRIMARY KEY (group_id, user_pseudonym)
) STRICT;

-- Policies of past epochs whose messages can still come.
CREATE TABLE past_policies (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    policy BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch)
) STRICT;

-- What is kept of a group's message keys beside the MLS library's state.
CREATE TABLE upkeep (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    -- How many messages this client has encrypted in this epoch.
    epoch INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    -- The epoch in which a member could not be read: the next one heals that.
    heal_after INTEGER,
    -- 1: nothing is sent before the own leaf is a new one.
    renew INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What a backup says of own leaves, until they are renewed otherwise: see restored.rs.
CREATE TABLE restored_leaves (
    group_id BLOB PRIMARY KEY,
    leaf_seed BLOB NOT NULL,
    leaf_public_key BLOB NOT NULL,
    recovery_seed BLOB NOT NULL,
    number INTEGER
) STRICT;

-- Returns that the service has refused, as it says; it may have accepted them all the same. Until the own leaf is renewed
-- in the journal: the seed of the recovery key that went with it, the leaf that it would be, and the segment that it
-- would begin.
CREATE TABLE refused_returns (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    recovery_seed BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    segment_id BLOB NOT NULL,
    rotation_epoch INTEGER NOT NULL,
    state_key BLOB NOT NULL,
    wrapper_key BLOB NOT NULL
) STRICT;

-- Private keys of own leaves and KeyPackages by public key.
CREATE TABLE leaf_keys (
    public_key BLOB PRIMARY KEY,
    seed BLOB NOT NULL
) STRICT;

-- The request that a group waits for an answer to: exact bytes, so that a retry is the same request.
CREATE TABLE pending_requests (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    operation INTEGER NOT NULL,
    body BLOB NOT NULL,
    sender BLOB NOT NULL,
    signer_seed BLOB NOT NULL,
    request BLOB NOT NULL,
    minute INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    -- The commit's AAD, the contact that an accepted join makes, the seed of a new recovery key.
    aad BLOB NOT NULL,
    contact BLOB,
    recovery_seed BLOB
) STRICT;

-- Commits that this client has made and may have sent (SHA-256), of the present epoch. One that the service has refused
-- and plays later is no other copy's.
CREATE TABLE own_commits (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (group_id, digest)
) STRICT;

-- What the user says and what has not come to its end yet: sent in this order in each group.
CREATE TABLE queue (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id BLOB NOT NULL UNIQUE,
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    content BLOB NOT NULL,
    -- Of an edit or a reaction, what it is about: with that one it goes.
    target BLOB,
    -- 1: nobody is told how it ended.
    quiet INTEGER NOT NULL,
    made_ms INTEGER NOT NULL
) STRICT;

-- What was said in groups, by its id (draft-ietf-mimi-content, section 3.3): see messages.rs. It outlives the row of the
-- group, which is another one after this client has come in anew.
CREATE TABLE messages (
    -- In the order of the journal, what waits last.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    message_id BLOB NOT NULL,
    -- Who has said it: the identity key, or (verified = 0) SHA-256 of the leaf's credential. Nobody else changes it.
    sender BLOB NOT NULL,
    verified INTEGER NOT NULL,
    name TEXT NOT NULL,
    own INTEGER NOT NULL,
    -- 0: a message, 1: a reaction, 2: an edit or a deletion, of which only the id is kept.
    kind INTEGER NOT NULL,
    -- What a reaction is to.
    about BLOB,
    -- As it is now; NULL once it is gone.
    content BLOB,
    -- 0: in the journal, 1: in the outbox, 2: not sent and will not be.
    state INTEGER NOT NULL,
    -- When the service has accepted it, as it says (milliseconds since 1970); while it waits, when it was said.
    at_ms INTEGER NOT NULL,
    edited INTEGER NOT NULL DEFAULT 0,
    -- It expires so many seconds after it was read; NULL once that time has begun.
    after_s INTEGER,
    -- When it expires: milliseconds since 1970.
    due_ms INTEGER,
    -- 1: its sender has deleted it, 2: it has expired.
    gone INTEGER NOT NULL DEFAULT 0,
    -- What this client has told of it: 1 that it has arrived, 2 that it was read.
    told INTEGER NOT NULL DEFAULT 0,
    UNIQUE (group_id, message_id)
) STRICT;
CREATE INDEX messages_in_order ON messages (group_id, id) WHERE kind = 0;
CREATE INDEX messages_by_id ON messages (message_id);
CREATE INDEX messages_about ON messages (group_id, about) WHERE about IS NOT NULL;
CREATE INDEX messages_due ON messages (due_ms) WHERE due_ms IS NOT NULL;
CREATE INDEX messages_gone ON messages (at_ms) WHERE kind = 2 OR gone != 0;

-- How often words were erased that the journal of this file may hold still: see database.rs.
CREATE TABLE erased (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    times INTEGER NOT NULL
) STRICT;

-- What members say of messages of this user's, and what waits to be told of others': see receipts.rs.
CREATE TABLE receipts (
    group_id BLOB NOT NULL,
    message_id BLOB NOT NULL,
    reader BLOB NOT NULL,
    name TEXT NOT NULL,
    status INTEGER NOT NULL,
    PRIMARY KEY (group_id, message_id, reader)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipts_due (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    message_id BLOB NOT NULL,
    status INTEGER NOT NULL,
    PRIMARY KEY (group_id, message_id)
) STRICT, WITHOUT ROWID;

-- Own messages: written before they are sent, gone when they are read in the journal.
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    -- SHA-256 of the MLS message, and the epoch that it is of.
    digest BLOB NOT NULL UNIQUE,
    epoch INTEGER NOT NULL,
    -- Of a message of the user's, its id and what it says. What else is sent again has a row of its own for that.
    message_id BLOB,
    content BLOB,
    target BLOB,
    -- The signed request, until it is known what has become of it: sent again, it is the same request.
    request BLOB,
    made_ms INTEGER NOT NULL,
    -- Where it is in the journal, once the service has said so.
    segment_id BLOB,
    position INTEGER,
    -- 1: it was given up, since it was refused or sent again. It may come all the same.
    given_up INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Groups that this client puts another one in the place of, until everybody is in that.
CREATE TABLE successors (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    successor BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    pseudonym BLOB NOT NULL,
    name TEXT NOT NULL,
    -- JSON: names of the contacts to be added.
    members TEXT NOT NULL,
    ciphersuite INTEGER NOT NULL,
    -- 0: the old group has not ended yet, 1: to be created, 2: to be filled.
    stage INTEGER NOT NULL,
    -- The policy of the old group (encoded); its roles are those of the new one.
    policy BLOB
) STRICT;

-- Pointers to Welcomes of clients that this one has added: kept until the join record expires, so that they can be told
-- again.
CREATE TABLE pointers (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- Of the leaf that was added (its digest).
    credential BLOB NOT NULL,
    -- Encoded WelcomePointer; its place is known when the commit was read in the journal.
    pointer BLOB NOT NULL,
    -- 0: the commit is not read yet; 1: to be sent; 2: sent.
    state INTEGER NOT NULL,
    expires_day INTEGER NOT NULL,
    PRIMARY KEY (group_id, epoch, credential)
) STRICT;

-- Invitations: pointers that came and are not followed yet.
CREATE TABLE invitations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- Where the blob is found, what opens it, and the rest of the pointer (encoded WelcomePointer of one device).
    pointer BLOB NOT NULL UNIQUE,
    received_ms INTEGER NOT NULL,
    -- The identity key of who has sent it.
    sender BLOB NOT NULL,
    -- How often the service had nothing for it, and when it is asked again.
    tries INTEGER NOT NULL DEFAULT 0,
    again_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL,
    -- The message whose words are in it, and the one that this one is about: it goes with either.
    message BLOB,
    about BLOB
) STRICT;
CREATE INDEX events_by_message ON events (message) WHERE message IS NOT NULL;
CREATE INDEX events_about ON events (about) WHERE about IS NOT NULL;

-- This user's devices, this one left out. The leaf is the one in the devices' own group.
CREATE TABLE devices (
    device_id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    leaf_index INTEGER NOT NULL UNIQUE,
    -- 1: this device is being removed by us. What was cut off is gone on with.
    going INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Which leaf of a group is which device, as the device itself says.
CREATE TABLE device_leaves (
    device_id BLOB NOT NULL REFERENCES devices (device_id) ON DELETE CASCADE,
    -- Perhaps one that this device is not in yet.
    group_id BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    PRIMARY KEY (device_id, group_id)
) STRICT;

-- Devices that were asked to come into a group, and when (ms): not asked again for a while.
CREATE TABLE device_invitations (
    device_id BLOB NOT NULL REFERENCES devices (device_id) ON DELETE CASCADE,
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    sent_ms INTEGER NOT NULL,
    PRIMARY KEY (device_id, group_id)
) STRICT;

-- Groups that this device was asked into by another one, until it is in or has given up.
CREATE TABLE ways_in (
    group_id BLOB PRIMARY KEY,
    way BLOB NOT NULL
) STRICT;

-- Groups that this device has asked its user's other devices to add it to, and the signature key of the leaf that it has
-- made for that, once for each device that let it ask. Nobody else adds it in this user's name.
CREATE TABLE asked_in (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    PRIMARY KEY (group_id, leaf_key)
) STRICT;

-- Devices that another one is asked to add by a commit.
CREATE TABLE clients_to_add (
    group_id BLOB NOT NULL,
    key_package BLOB NOT NULL,
    PRIMARY KEY (group_id, key_package)
) STRICT;

-- What the other devices are to be told, in order.
CREATE TABLE sync_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message BLOB NOT NULL
) STRICT;

-- A device that waits to be linked: the code that it showed, and the inbox that the answer comes to.
CREATE TABLE link (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    code BLOB NOT NULL,
    seed BLOB NOT NULL,
    owner_seed BLOB NOT NULL,
    inbox_id BLOB NOT NULL,
    inbox_owner_seed BLOB NOT NULL,
    -- The sealed package, once it has come.
    package BLOB
) STRICT;

-- What is published for each contact, by ciphersuite.
CREATE TABLE key_packages (
    signature_key BLOB NOT NULL REFERENCES contacts (signature_key) ON DELETE CASCADE,
    ciphersuite INTEGER NOT NULL,
    sets_left INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (signature_key, ciphersuite)
) STRICT;

-- KeyPackages that this device has made, until nobody can invite it with them any more.
CREATE TABLE made_packages (
    key_package_ref BLOB PRIMARY KEY,
    -- Public signature key of its leaf.
    leaf_key BLOB NOT NULL,
    expires_day INTEGER NOT NULL,
    -- 1: this user was invited with it, and it is taken off its set's count.
    used INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX made_packages_by_end ON made_packages (expires_day);

-- Sets in the making: each device adds its package.
CREATE TABLE key_package_batch (
    user_pseudonym BLOB PRIMARY KEY,
    signature_key BLOB NOT NULL REFERENCES contacts (signature_key) ON DELETE CASCADE,
    ciphersuite INTEGER NOT NULL,
    begun_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE batch_packages (
    user_pseudonym BLOB NOT NULL REFERENCES key_package_batch (user_pseudonym) ON DELETE CASCADE,
    device_id BLOB NOT NULL,
    key_package BLOB NOT NULL,
    PRIMARY KEY (user_pseudonym, device_id)
) STRICT;

-- Packages that another device waits for, for sets that it will publish.
CREATE TABLE wanted_packages (
    user_pseudonym BLOB PRIMARY KEY,
    ciphersuite INTEGER NOT NULL
) STRICT;

-- Former pools, until the service has deleted them.
CREATE TABLE retired_pools (
    pool_token BLOB PRIMARY KEY,
    owner_seed BLOB NOT NULL
) STRICT;

-- Sets of contacts that were claimed and are in no group yet.
CREATE TABLE claimed_sets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signature_key BLOB NOT NULL REFERENCES contacts (signature_key) ON DELETE CASCADE,
    ciphersuite INTEGER NOT NULL,
    -- As the service handed it out.
    sealed BLOB NOT NULL,
    -- Signature key of the first leaf in it.
    leaf_key BLOB NOT NULL,
    -- The group that the service was shown it for: good for that one only.
    shown_for BLOB
) STRICT;

-- Acts that concern several groups, each at a time of its own: see schedule.rs.
CREATE TABLE acts (
    act TEXT NOT NULL,
    -- What it is about: a group, a contact, or nothing.
    about BLOB NOT NULL,
    due_ms INTEGER NOT NULL,
    PRIMARY KEY (act, about)
) STRICT;

-- Reporting of abuse (docs/abuse.md): the issuer's keys, the own certificate, what others signed for this user.

-- The issuer's directory, fetched once a day.
CREATE TABLE certificate_keys (
    public_key BLOB PRIMARY KEY
) STRICT;

CREATE TABLE reporting (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- 1: the issuer asks clients to take no request without a certificate.
    required INTEGER NOT NULL DEFAULT 0,
    -- When the issuer is asked again: some time of the day, not after anything that the user does.
    due_ms INTEGER NOT NULL DEFAULT 0,
    -- The certificate over the identity key, its salt, and the day that it came.
    certificate BLOB,
    salt BLOB,
    certificate_day INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO reporting (id) VALUES (1);

-- The last introduction of everybody who made one, verified; kept while it can be reported.
CREATE TABLE introductions (
    signature_key BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    introduction BLOB NOT NULL,
    not_after_day INTEGER NOT NULL,
    reported INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Push (docs/push.md).
CREATE TABLE push (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- Of the owner key, which names the record.
    seed BLOB NOT NULL,
    -- Of the last request.
    number INTEGER NOT NULL,
    -- 1: the push sender has the record.
    registered INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Each goes into one leaf. NULL: it is in stock.
CREATE TABLE push_handles (
    handle BLOB PRIMARY KEY,
    issued_ms INTEGER NOT NULL,
    group_id BLOB
) STRICT;

-- The last tick of the activity feed that was checked; no row while this client polls without the feed.
CREATE TABLE feed (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    -- How long its ticks are.
    seconds INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hash BLOB NOT NULL,
    -- As the service has signed it: half of a proof, should another one contradict it.
    tick BLOB NOT NULL
) STRICT;

-- What following the feed may still cost, in bytes, and since when it is so much.
CREATE TABLE feed_purse (
    only INTEGER PRIMARY KEY CHECK (only = 0),
    left INTEGER NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT;

-- Stores of which the service has signed two feeds, and two ticks of it that prove that: theirs is
-- not followed.
CREATE TABLE feed_forks (
    generation INTEGER PRIMARY KEY,
    one BLOB NOT NULL,
    other BLOB NOT NULL
) STRICT;

-- Groups that were read to their ends once: which of them have news since.
CREATE TABLE feed_groups (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    -- In the queue of those with news; 0 for none.
    place INTEGER NOT NULL
) STRICT;
