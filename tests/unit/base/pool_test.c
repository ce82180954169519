#include "test.h"
#include "base/pool.h"

#include <stdatomic.h>
#include <sys/mman.h>

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

static void keep_thread(void *context, int task, int thread)
{
    ((int *)context)[task] = thread;
}

static void each_thread_begins_with_the_first_task_of_its_share(void **state)
{
    for (int threads = 1; threads <= 5; threads++) {
        struct pool *pool = pool_new(threads);
        int thread[40];
        for (int round = 0; round < 50; round++) {
            pool_run(pool, 40, keep_thread, thread);
            for (int i = 0; i < threads; i++)
                assert_int_equal(thread[pool_share(40, threads, i)], i);
        }
        pool_free(pool);
    }
}

/* Whoever still read it would die. */
static void fetched_memory_may_go_once_the_fetch_has_ended(void **state)
{
    enum { BYTES = 1 << 20 };

    for (int threads = 1; threads <= 5; threads++) {
        struct pool *pool = pool_new(threads);
        int thread[40];
        for (int round = 0; round < 50; round++) {
            char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            assert_ptr_not_equal(memory, MAP_FAILED);
            pool_fetch(pool, memory, BYTES, BYTES / 16 - 64);
            pool_run(pool, 40, keep_thread, thread);
            pool_run(pool, 1, keep_thread, thread);
            pool_fetch(pool, NULL, 0, 0);
            assert_int_equal(munmap(memory, BYTES), 0);
            pool_run(pool, 40, keep_thread, thread);
        }
        pool_free(pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_task_runs_once),
                                       cmocka_unit_test(each_thread_begins_with_the_first_task_of_its_share),
                                       cmocka_unit_test(fetched_memory_may_go_once_the_fetch_has_ended)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
