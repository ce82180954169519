#include "test.h"

#include "os/background.h"
#include "os/file.h"

#include <poll.h>
#include <pthread.h>
#include <string.h>

struct act {
    struct background *background;
    struct background_task task;
    pthread_t ran_on, done_on;
    int runs, dones, wanted;
};

static void run(void *context)
{
    struct act *act = context;

    act->ran_on = pthread_self();
    act->runs++;
}

static void done(void *context)
{
    struct act *act = context;

    act->done_on = pthread_self();
    if (++act->dones < act->wanted)
        background_add(act->background, &act->task);
}

static void act_add(struct act *act, struct background *background, int wanted)
{
    *act = (struct act){.background = background, .task = {run, done, act, NULL}, .wanted = wanted};
    background_add(background, &act->task);
}

static void a_task_runs_on_another_thread_and_is_done_on_the_owners(void **state)
{
    struct err err;
    struct background *background = background_new(2, &err);
    struct pollfd ready = {.events = POLLIN};
    struct act act;

    assert_ok(background, err);
    act_add(&act, background, 1);
    ready.fd = background_fd(background);
    assert_int_equal(poll(&ready, 1, -1), 1);
    assert_int_equal(act.dones, 0);
    background_collect(background);
    assert_int_equal(act.runs, 1);
    assert_int_equal(act.dones, 1);
    assert_true(pthread_equal(act.done_on, pthread_self()));
    assert_false(pthread_equal(act.ran_on, pthread_self()));
    assert_int_equal(poll(&ready, 1, 0), 0);
    background_free(background);
}

static void finishing_runs_what_was_added_and_what_the_ends_add(void **state)
{
    struct err err;
    struct background *background = background_new(3, &err);
    struct act acts[50];

    assert_ok(background, err);
    for (int i = 0; i < 50; i++)
        act_add(&acts[i], background, 1 + i % 4);
    background_finish(background);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(acts[i].runs, 1 + i % 4);
        assert_int_equal(acts[i].dones, 1 + i % 4);
    }
    act_add(&acts[0], background, 7);
    background_free(background); /* finishes too */
    assert_int_equal(acts[0].dones, 7);
}

static void without_threads_a_task_is_done_at_once(void **state)
{
    struct act act;

    act_add(&act, NULL, 3);
    assert_int_equal(act.runs, 3);
    assert_int_equal(act.dones, 3);
    background_finish(NULL);
    background_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_task_runs_on_another_thread_and_is_done_on_the_owners),
        cmocka_unit_test(finishing_runs_what_was_added_and_what_the_ends_add),
        cmocka_unit_test(without_threads_a_task_is_done_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
