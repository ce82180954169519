#include "test.h"

#include "http/loop.h"

#include <string.h>

struct desk {
    int64_t now_ms;
    struct http_loop *loop;
    char log[64];
    struct http_timer *timers[4];
    struct http_watch *watches[2];
};

static int64_t desk_now(void *context)
{
    return ((struct desk *)context)->now_ms;
}

static void desk_open(struct desk *desk)
{
    struct err err;

    *desk = (struct desk){.now_ms = 1000};
    desk->loop = http_loop_new(&(struct http_clock){desk_now, desk}, &err);
    assert_ok(desk->loop != NULL, err);
}

static void step_at(struct desk *desk, int64_t now_ms)
{
    struct err err;

    desk->now_ms = now_ms;
    assert_ok(http_loop_step(desk->loop, 0, &err), err);
}

static void note(struct desk *desk, char c)
{
    desk->log[strlen(desk->log)] = c;
}

static void note_a(void *context)
{
    note(context, 'a');
}

static void note_b(void *context)
{
    note(context, 'b');
}

static void note_c(void *context)
{
    note(context, 'c');
}

static void take_a_while(void *context)
{
    ((struct desk *)context)->now_ms += HTTP_SLOW_TURN_MS + 20;
}

static void turns_that_take_long_are_counted(void **state)
{
    struct http_loop_turns turns;
    struct desk desk;

    desk_open(&desk);
    http_loop_add_timer(desk.loop, 1100, take_a_while, &desk);
    http_loop_add_timer(desk.loop, 1200, note_a, &desk);
    step_at(&desk, 1100);
    step_at(&desk, 1200);
    turns = http_loop_turns(desk.loop);
    assert_int_equal(turns.count, 2);
    assert_int_equal(turns.slow_count, 1);
    assert_int_equal(turns.longest_ms, HTTP_SLOW_TURN_MS + 20);
    http_loop_free(desk.loop);
}

static void repeat(void *context)
{
    struct desk *desk = context;

    note(desk, 'r');
    http_timer_set(desk->timers[0], desk->now_ms);
}

static void remove_both(void *context)
{
    struct desk *desk = context;

    note(desk, 'x');
    http_timer_remove(desk->timers[0]);
    http_timer_remove(desk->timers[1]);
}

static void timers_are_called_in_the_order_of_their_times(void **state)
{
    struct desk desk;

    desk_open(&desk);
    http_loop_add_timer(desk.loop, 1300, note_c, &desk);
    http_loop_add_timer(desk.loop, 1100, note_a, &desk);
    http_loop_add_timer(desk.loop, 1200, note_b, &desk);
    http_loop_add_timer(desk.loop, 1200, note_a, &desk);
    http_loop_add_timer(desk.loop, INT64_MAX, note_c, &desk);
    step_at(&desk, 1099);
    assert_string_equal(desk.log, "");
    step_at(&desk, 1100);
    assert_string_equal(desk.log, "a");
    step_at(&desk, 5000);
    assert_string_equal(desk.log, "abac");
    http_loop_free(desk.loop);
}

static void a_timer_may_be_moved_before_it_is_due(void **state)
{
    struct desk desk;

    desk_open(&desk);
    for (int i = 0; i < 4; i++)
        desk.timers[i] = http_loop_add_timer(desk.loop, 1100 + i, i % 2 ? note_b : note_a, &desk);
    http_timer_set(desk.timers[0], 3000);
    http_timer_set(desk.timers[3], INT64_MAX);
    http_timer_remove(desk.timers[2]);
    step_at(&desk, 2000);
    assert_string_equal(desk.log, "b");
    step_at(&desk, 3000);
    assert_string_equal(desk.log, "ba");
    http_loop_free(desk.loop);
}

static void a_timer_that_sets_itself_to_now_is_called_once_a_round(void **state)
{
    struct desk desk;

    desk_open(&desk);
    desk.timers[0] = http_loop_add_timer(desk.loop, 1000, repeat, &desk);
    step_at(&desk, 1000);
    step_at(&desk, 1000);
    assert_string_equal(desk.log, "rr");
    http_loop_free(desk.loop);
}

static void timers_may_be_removed_while_one_is_called(void **state)
{
    struct desk desk;

    desk_open(&desk);
    desk.timers[0] = http_loop_add_timer(desk.loop, 1000, remove_both, &desk);
    desk.timers[1] = http_loop_add_timer(desk.loop, 1000, note_a, &desk);
    step_at(&desk, 1000);
    step_at(&desk, 2000);
    assert_string_equal(desk.log, "x");
    http_loop_free(desk.loop);
}

static void drop_watches(void *context, uint32_t events)
{
    struct desk *desk = context;

    note(desk, events & EPOLLIN ? 'i' : '?');
    http_watch_remove(desk->watches[0]);
    http_watch_remove(desk->watches[1]);
}

static void a_watch_removed_in_a_round_is_not_called_in_it(void **state)
{
    struct desk desk;
    int ends[2], fds[2];
    struct err err;

    desk_open(&desk);
    assert_int_equal(pipe(ends), 0);
    for (int i = 0; i < 2; i++) {
        fds[i] = dup(ends[0]);
        desk.watches[i] = http_loop_add_fd(desk.loop, fds[i], EPOLLIN, drop_watches, &desk, &err);
        assert_ok(desk.watches[i] != NULL, err);
    }
    step_at(&desk, 1000);
    assert_string_equal(desk.log, "");
    assert_int_equal(write(ends[1], "x", 1), 1);
    step_at(&desk, 1000); /* both are ready; the first one called removes both */
    step_at(&desk, 1000);
    assert_string_equal(desk.log, "i");
    assert_null(http_loop_add_fd(desk.loop, -1, EPOLLIN, drop_watches, &desk, &err));
    http_loop_free(desk.loop);
    for (int i = 0; i < 2; i++) {
        close(ends[i]);
        close(fds[i]);
    }
}

static void stop_loop(void *context)
{
    http_loop_stop(((struct desk *)context)->loop);
}

static void a_loop_runs_until_it_is_stopped(void **state)
{
    struct desk desk;
    struct err err;

    desk_open(&desk);
    http_loop_add_timer(desk.loop, 1000, stop_loop, &desk);
    assert_ok(http_loop_run(desk.loop, &err), err);
    http_loop_stop(desk.loop); /* before the run: it returns at once */
    assert_ok(http_loop_run(desk.loop, &err), err);
    http_loop_free(desk.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_that_take_long_are_counted),
        cmocka_unit_test(timers_are_called_in_the_order_of_their_times),
        cmocka_unit_test(a_timer_may_be_moved_before_it_is_due),
        cmocka_unit_test(a_timer_that_sets_itself_to_now_is_called_once_a_round),
        cmocka_unit_test(timers_may_be_removed_while_one_is_called),
        cmocka_unit_test(a_watch_removed_in_a_round_is_not_called_in_it),
        cmocka_unit_test(a_loop_runs_until_it_is_stopped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
