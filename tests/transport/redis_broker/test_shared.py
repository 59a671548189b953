"""What every broker's suite asks, asked of this one."""

from tests.transport.test_consuming import (
    test_a_connection_made_before_a_fork_works_on_both_sides,
    test_a_forked_child_renews_what_it_took_and_leaves_what_is_its_parents,
    test_a_message_from_another_process_wakes_a_waiting_consumer,
    test_direct_and_topic_exchanges_route_by_key_across_processes,
    test_one_call_delivers_one_message,
    test_queues_can_be_asked_in_a_fixed_order,
    test_queues_take_turns,
    test_the_prefetch_limit_holds_until_something_is_acknowledged,
    test_waiting_in_vain_ends_with_the_timeout,
    test_what_a_producer_published_before_it_was_killed_is_there,
)
from tests.transport.test_messages import (
    channel,
    test_a_message_comes_as_it_was_sent,
    test_binary_bodies_come_back_byte_by_byte,
    test_many_threads_publish_and_consume_through_one_process,
    test_messages_come_in_the_order_they_were_sent,
    test_recovering_puts_back_what_is_held,
)

__all__ = [
    "channel",
    "test_a_connection_made_before_a_fork_works_on_both_sides",
    "test_a_forked_child_renews_what_it_took_and_leaves_what_is_its_parents",
    "test_a_message_comes_as_it_was_sent",
    "test_a_message_from_another_process_wakes_a_waiting_consumer",
    "test_binary_bodies_come_back_byte_by_byte",
    "test_direct_and_topic_exchanges_route_by_key_across_processes",
    "test_many_threads_publish_and_consume_through_one_process",
    "test_messages_come_in_the_order_they_were_sent",
    "test_one_call_delivers_one_message",
    "test_queues_can_be_asked_in_a_fixed_order",
    "test_queues_take_turns",
    "test_recovering_puts_back_what_is_held",
    "test_the_prefetch_limit_holds_until_something_is_acknowledged",
    "test_waiting_in_vain_ends_with_the_timeout",
    "test_what_a_producer_published_before_it_was_killed_is_there",
]
