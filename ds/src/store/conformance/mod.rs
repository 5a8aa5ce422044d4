//! One suite that judges every engine: each function proves one invariant of [`Store`] on a fresh,
//! empty store, and panics if it does not hold. An engine in another crate runs [`judge`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod contention;
pub mod deletions;
pub mod durability;
pub mod expiry;
mod fixtures;
pub mod groups;
pub mod key_packages;
pub mod queues;
pub mod receipts;

use std::sync::Arc;

use super::Store;

/// Hands the list of all invariants to a macro: `module: [function, …],` for each module.
macro_rules! each_invariant {
    ($with:ident) => {
        $with! {
            receipts: [
                a_recorded_result_comes_before_every_other_refusal,
                a_spent_token_comes_before_the_condition,
                a_refusal_writes_nothing,
                a_token_pays_once_also_within_one_request,
                a_token_is_spent_for_its_issuer_key_only,
                one_spent_token_among_several_is_seen,
                an_effect_its_result_and_its_spends_come_together,
                a_dropped_issuer_key_takes_its_spent_set_along_and_no_other,
                a_closed_issuer_key_takes_no_token_ever_again,
                since_when_an_issuer_key_is_gone_is_remembered_until_it_is_back,
            ],
            groups: [
                a_group_id_is_reserved_once,
                a_group_id_in_use_cannot_be_reserved,
                only_who_reserved_a_group_id_creates_the_group_and_once,
                a_reservation_is_found_on_any_of_the_days_asked_for,
                a_reservation_is_used_up_by_its_owner_only_and_once,
                a_key_check_follows_its_group,
                a_group_is_read_with_its_tree_only_if_asked,
                a_group_is_read_with_its_proposals_only_if_asked,
                proposals_are_kept_replaced_or_cleared,
                an_epoch_change_drops_the_join_records_that_it_names,
                the_first_reservation_of_the_rows_asked_for_is_found,
                an_epoch_change_writes_state_records_and_entries_together,
                an_epoch_change_from_another_version_changes_nothing,
                a_tree_stays_if_an_epoch_change_brings_none,
                a_message_needs_the_version_that_was_read,
                the_first_join_record_of_the_rows_asked_for_is_found,
            ],
            queues: [
                a_queue_is_created_once,
                queues_are_read_in_the_order_asked_for,
                a_queue_is_replaced_only_by_who_knows_its_record,
                deliveries_outside_of_groups_arrive,
                a_block_marker_can_be_set_twice,
                entries_and_payloads_are_read_in_the_order_asked_for,
                a_payload_goes_with_its_last_reference_and_not_before,
                an_entry_that_is_gone_gives_up_nothing,
                entries_of_one_acknowledgement_may_share_a_payload,
                incarnations_are_known_for_their_days_oldest_first,
            ],
            key_packages: [
                a_pool_has_one_owner,
                a_set_is_claimed_once,
                all_sets_of_a_claim_are_consumed_or_none,
                a_set_named_twice_in_a_claim_is_not_handed_out_twice,
                sets_that_expire_first_are_handed_out_first,
                every_candidate_can_be_picked,
                a_set_is_handed_out_through_its_expiry_day,
                ciphersuites_and_pools_are_apart,
                the_last_resort_set_comes_last_stays_and_is_replaced,
                a_handle_has_one_owner_who_may_replace_its_record,
            ],
            deletions: [
                nothing_of_a_deleted_group_is_left,
                a_deleted_group_leaves_its_id_in_use,
                a_deletion_from_another_version_changes_nothing,
                of_racing_epoch_changes_and_deletions_one_is_first,
                no_message_lands_behind_a_deletion,
                a_deleted_queue_is_gone_and_its_name_free,
                of_racing_replacements_of_a_queue_one_is_first,
                no_replacement_of_a_queue_is_lost,
                only_its_owner_deletes_a_pool,
                a_deleted_pool_takes_its_sets_along_and_no_others,
                claims_that_race_the_deletion_of_a_pool_get_each_set_once_or_not,
                a_publication_that_races_a_deletion_is_there_whole_or_not_at_all,
                only_its_owner_deletes_a_handle_which_is_then_free,
            ],
            contention: [
                of_racing_epoch_changes_one_is_first,
                no_epoch_change_is_lost,
                no_message_lands_behind_an_epoch_change,
                messages_to_one_group_all_arrive,
                all_parts_of_a_group_are_of_one_version,
                a_token_is_spent_once_by_racing_requests,
                a_repeated_request_has_one_effect,
                a_group_id_is_reserved_once_by_racing_requests,
                a_group_is_created_once_by_racing_requests,
                a_pool_and_a_handle_have_one_owner_after_a_race,
                each_set_goes_to_one_of_many_claimers,
                claims_that_overlap_crosswise_do_not_block_each_other,
                an_entry_acknowledged_by_many_gives_up_one_reference,
                recipients_who_acknowledge_at_once_leave_no_payload,
            ],
            expiry: [
                queues_expire_by_their_day,
                results_expire_by_their_day,
                join_records_and_reservations_expire_by_their_day,
                key_packages_expire_by_their_day,
                expiry_leaves_what_has_no_day,
                expiry_can_be_repeated,
            ],
        }
    };
}
#[cfg(test)]
pub(crate) use each_invariant;

macro_rules! judge_each {
    ($($module:ident: [$($invariant:ident),* $(,)?],)*) => {
        /// Proves every invariant, each on a store of its own. `fresh` gives an empty store with
        /// whatever has to live as long as it (its directory).
        ///
        /// # Panics
        /// If an invariant does not hold.
        pub async fn judge<F, G>(fresh: F)
        where
            F: AsyncFn() -> (Arc<dyn Store>, G),
        {
            $($(
                let (store, _alive) = fresh().await;
                $module::$invariant(store).await;
            )*)*
        }
    };
}
each_invariant!(judge_each);

#[cfg(test)]
mod memory {
    use super::*;
    use crate::store::memory::Memory;

    macro_rules! on_memory {
        ($($module:ident: [$($invariant:ident),* $(,)?],)*) => {
            $(mod $module {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                    async fn $invariant() {
                        super::super::$module::$invariant(std::sync::Arc::new(super::Memory::new())).await;
                    }
                )*
            })*
        };
    }
    each_invariant!(on_memory);

    #[tokio::test(flavor = "multi_thread")]
    async fn an_engine_can_be_judged_as_a_whole() {
        judge(async || (Arc::new(Memory::new()) as Arc<dyn Store>, ())).await;
    }
}
