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

enum { SPINS = 2000, THREADS_MAX = 256, LINE = 64, FETCH_LINES = 16, FETCH_MOST = 256 << 10 };

/* Memory that threads fetch while they wait. */
struct ahead {
    const char *at;
    size_t bytes, piece_bytes;
};

struct worker {
    struct pool *pool;
    pthread_t thread;
    int index;
    struct ahead ahead;        /* the pool's, as it was when the last run began */
    size_t piece, piece_done, fetched;
};

/* Tasks that a thread takes before those of others, the first of them always. */
struct share {
    _Alignas(64) atomic_int next;
    int first, end;
};

struct pool {
    int thread_count;
    struct worker *workers;   /* [thread_count], the caller is the first */
    struct share *shares;     /* [thread_count] */
    struct ahead ahead;
    pool_task *run;
    void *context;
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

/* Reads a few more lines of the worker's pieces; false when none are left. Prefetches this fast would be dropped. */
static bool fetch_some(struct worker *worker)
{
    const struct ahead *ahead = &worker->ahead;
    size_t first = worker->piece * ahead->piece_bytes + worker->piece_done;

    if (first + FETCH_LINES * LINE > ahead->bytes || worker->fetched >= FETCH_MOST)
        return false;
    for (size_t i = 0; i < FETCH_LINES; i++)
        (void)*(const volatile char *)(ahead->at + first + i * LINE);
    worker->fetched += FETCH_LINES * LINE;
    worker->piece_done += FETCH_LINES * LINE;
    if (worker->piece_done >= ahead->piece_bytes) {
        worker->piece += (size_t)worker->pool->thread_count;
        worker->piece_done = 0;
    }
    return true;
}

/* A run begins: what is fetched may have changed. */
static void take_ahead(struct worker *worker)
{
    const struct ahead *ahead = &worker->pool->ahead;

    if (worker->ahead.at == ahead->at && worker->ahead.bytes == ahead->bytes)
        return;
    worker->ahead = *ahead;
    worker->piece = (size_t)worker->index;
    worker->piece_done = worker->fetched = 0;
}

/* Waits until *word differs from `old`. A sleeper counts itself before it looks at the word for the last time, and who
 * changes the word looks at the count behind that; in the one order of these four one of them sees the other. */
static void wait_change(struct worker *worker, _Atomic uint32_t *word, uint32_t old)
{
    struct pool *pool = worker->pool;

    for (int i = 0; i < SPINS;) {
        if (atomic_load_explicit(word, memory_order_acquire) != old)
            return;
        if (fetch_some(worker))
            continue;
        pause_cpu();
        i++;
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

static void run_share(struct pool *pool, struct share *share, int thread)
{
    int task;

    while (atomic_load_explicit(&share->next, memory_order_relaxed) < share->end) {
        task = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
        if (task < share->end)
            pool->run(pool->context, task, thread);
    }
}

static void run_tasks(struct pool *pool, int thread)
{
    struct share *own = &pool->shares[thread];

    if (own->first < own->end)
        pool->run(pool->context, own->first, thread);
    for (int i = 0; i < pool->thread_count; i++)
        run_share(pool, &pool->shares[(thread + i) % pool->thread_count], thread);
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    uint32_t seen = 0;

    for (;;) {
        wait_change(worker, &pool->generation, seen);
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (atomic_load(&pool->is_closing))
            return NULL;
        take_ahead(worker);
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
    pool->shares = aligned_alloc(64, (size_t)pool->thread_count * sizeof *pool->shares);
    if (!pool->shares)
        die("out of memory for the thread pool");
    for (int i = 0; i < pool->thread_count; i++) {
        struct worker *worker = &pool->workers[i];
        *worker = (struct worker){.pool = pool, .index = i};
        if (i > 0 && pthread_create(&worker->thread, NULL, work, worker) != 0)
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
        pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

int pool_thread_count(const struct pool *pool)
{
    return pool->thread_count;
}

int pool_share(int task_count, int thread_count, int thread)
{
    return (int)((int64_t)task_count * thread / thread_count);
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
    for (int i = 0; i < pool->thread_count; i++) {
        struct share *share = &pool->shares[i];
        share->first = pool_share(task_count, pool->thread_count, i);
        share->end = pool_share(task_count, pool->thread_count, i + 1);
        atomic_store_explicit(&share->next, share->first + 1, memory_order_relaxed);
    }
    atomic_store_explicit(&pool->busy_count, (uint32_t)pool->thread_count - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->generation, 1);
    wake_all(pool, &pool->generation);
    take_ahead(&pool->workers[0]);
    run_tasks(pool, 0);
    while ((busy = atomic_load_explicit(&pool->busy_count, memory_order_acquire)) != 0)
        wait_change(&pool->workers[0], &pool->busy_count, busy);
}

static void do_nothing(void *context, int task, int thread)
{
}

void pool_fetch(struct pool *pool, const void *at, size_t bytes, size_t piece_bytes)
{
    bool was_reading = pool->ahead.bytes > 0;

    pool->ahead = (struct ahead){at, bytes, piece_bytes};
    if (was_reading && bytes == 0)
        pool_run(pool, pool->thread_count, do_nothing, NULL);
}
