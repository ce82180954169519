#include "test.h"
#include "base/pool.h"

#include <stdatomic.h>

static atomic_int seen[1000];

static void mark(void *context, int task, int thread)
{
    atomic_fetch_add(&seen[task], 1);
    (void)context;
    (void)thread;
}

static void every_task_runs_once(void **state)
{
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *pool = pool_new(threads);
        for (int round = 0; round < 200; round++) {
            int count = round * 5;
            for (int i = 0; i < 1000; i++)
                seen[i] = 0;
            pool_run(pool, count, mark, NULL);
            for (int i = 0; i < 1000; i++)
                assert_int_equal(seen[i], i < count);
        }
        pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_task_runs_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
