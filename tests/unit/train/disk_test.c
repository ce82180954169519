#include "test.h"
#include "train/train_int.h"

/* Steps that have a checkpoint, counted one by one. */
static int64_t checkpoints_of(int64_t steps, int64_t epoch, int64_t every)
{
    int64_t count = 0;

    for (int64_t step = 1; step <= steps; step++)
        count += step % epoch == 0 || (every > 0 && step % every == 0);
    return count;
}

static struct session session_of(int64_t epochs, int64_t epoch, int64_t every)
{
    return (struct session){.config = {.checkpoint_steps = every},
                            .train = {.summary = {.examples = 10, .tokens = 1000, .kind = EXAMPLE_MESSAGES}},
                            .feed = {.steps_per_epoch = epoch},
                            .total_steps = epochs * epoch};
}

static void every_checkpoint_is_counted_once(void **state)
{
    for (int64_t epoch = 1; epoch <= 12; epoch++)
        for (int64_t every = 0; every <= 40; every++) {
            struct session session = session_of(3, epoch, every);
            struct disk_needs needs = disk_needs(&session, &(struct plan){0});
            if (needs.checkpoints != checkpoints_of(3 * epoch, epoch, every))
                fail_msg("epochs of %d steps, one each %d: %d checkpoints", (int)epoch, (int)every,
                         (int)needs.checkpoints);
        }
}

static void a_run_that_keeps_few_has_one_more_while_it_writes(void **state)
{
    for (int64_t keep = 1; keep <= 8; keep++) {
        struct session session = session_of(5, 4, 0);
        session.config.keep_checkpoints = keep;
        assert_int_equal(disk_needs(&session, &(struct plan){0}).checkpoints, keep < 4 ? keep + 1 : 5);
    }
}

static void recovery_points_are_the_kept_ones_and_one_more(void **state)
{
    static const struct {
        int64_t steps, every, count;
    } cases[] = {{1, 0, 0}, {2, 0, 1}, {100, 0, 3}, {100, 50, 1}, {101, 50, 2}, {1000, 50, 3}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct session session = session_of(1, cases[i].steps, 0);
        session.config.recovery_steps = cases[i].every;
        assert_int_equal(disk_needs(&session, &(struct plan){0}).recovery_points, cases[i].count);
    }
}

static void the_total_holds_every_part(void **state)
{
    struct session session = session_of(3, 5, 0);
    struct disk_needs needs =
        disk_needs(&session, &(struct plan){.checkpoint_bytes = 1000000, .state_bytes = 3000000});

    assert_true(needs.checkpoint_bytes >= 1000000 && needs.recovery_bytes >= 3000000 && needs.other_bytes >= 4000);
    assert_int_equal(needs.total_bytes,
                     3 * needs.checkpoint_bytes + 3 * needs.recovery_bytes + needs.other_bytes);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_checkpoint_is_counted_once),
        cmocka_unit_test(a_run_that_keeps_few_has_one_more_while_it_writes),
        cmocka_unit_test(recovery_points_are_the_kept_ones_and_one_more),
        cmocka_unit_test(the_total_holds_every_part),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
