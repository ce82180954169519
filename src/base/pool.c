#include "base/pool.h"
#include "base/arena.h"
#include "base/err.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 2000, THREADS_MAX = 256 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
};

struct pool {
    int thread_count;
    struct worker *workers;   /* thread_count - 1: the caller is thread 0 */
    pool_task *run;
    void *context;
    int task_count;
    _Alignas(64) atomic_int next_task;
    _Alignas(64) _Atomic uint32_t generation; /* a run began: workers wait for it to change */
    _Alignas(64) _Atomic uint32_t busy_count; /* workers that have not finished this generation */
    _Alignas(64) _Atomic uint32_t sleeper_count; /* gave up spinning: without any, waking takes no system call */
    atomic_bool is_closing;
};

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Waits until *word differs from `old`. A sleeper counts itself before it looks at the word for the last time, and who
 * changes the word looks at the count behind that; in the one order of these four one of them sees the other. */
static void wait_change(struct pool *pool, _Atomic uint32_t *word, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        pause_cpu();
    }
    atomic_fetch_add(&pool->sleeper_count, 1);
    while (atomic_load(word) == old)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&pool->sleeper_count, 1);
}

/* After *word changed. */
static void wake_all(struct pool *pool, _Atomic uint32_t *word)
{
    if (atomic_load(&pool->sleeper_count) > 0)
        syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void run_tasks(struct pool *pool, int thread)
{
    for (;;) {
        int task = atomic_fetch_add_explicit(&pool->next_task, 1, memory_order_relaxed);
        if (task >= pool->task_count)
            return;
        pool->run(pool->context, task, thread);
    }
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    uint32_t seen = 0;

    for (;;) {
        wait_change(pool, &pool->generation, seen);
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load(&pool->is_closing))
            return NULL;
        run_tasks(pool, worker->index);
        if (atomic_fetch_sub(&pool->busy_count, 1) == 1)
            wake_all(pool, &pool->busy_count);
    }
}

int pool_cores(void)
{
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;

    return count < 1 ? 1 : count > THREADS_MAX ? THREADS_MAX : count;
}

struct pool *pool_new(int thread_count)
{
    struct pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);

    if (!pool)
        die("out of memory for the thread pool");
    *pool = (struct pool){.thread_count = thread_count > 0 ? thread_count : pool_cores()};
    pool->workers = mem_alloc_zero((size_t)pool->thread_count, sizeof *pool->workers);
    for (int i = 1; i < pool->thread_count; i++) {
        struct worker *worker = &pool->workers[i - 1];
        *worker = (struct worker){.pool = pool, .index = i};
        if (pthread_create(&worker->thread, NULL, work, worker) != 0)
            die("cannot start thread %d of %d", i + 1, pool->thread_count);
    }
    return pool;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->is_closing, true);
    atomic_fetch_add(&pool->generation, 1);
    wake_all(pool, &pool->generation);
    for (int i = 1; i < pool->thread_count; i++)
        pthread_join(pool->workers[i - 1].thread, NULL);
    free(pool->workers);
    free(pool);
}

int pool_thread_count(const struct pool *pool)
{
    return pool->thread_count;
}

void pool_run(struct pool *pool, int task_count, pool_task *run, void *context)
{
    uint32_t busy;

    if (task_count <= 1 || pool->thread_count == 1) {
        for (int task = 0; task < task_count; task++)
            run(context, task, 0);
        return;
    }
    pool->run = run;
    pool->context = context;
    pool->task_count = task_count;
    atomic_store_explicit(&pool->next_task, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy_count, (uint32_t)pool->thread_count - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->generation, 1);
    wake_all(pool, &pool->generation);
    run_tasks(pool, 0);
    while ((busy = atomic_load_explicit(&pool->busy_count, memory_order_acquire)) != 0)
        wait_change(pool, &pool->busy_count, busy);
}
