#include "emulate.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { THREADS_MAX = 1024, STACK_BYTES = 128 << 10, WARP = 32, FETCHES_MAX = 256 };
enum { SHARED_BYTES = 99 << 10 }; /* the least of all targets */

unsigned char emulate_shared[SHARED_BYTES] __attribute__((aligned(128)));

thread_local struct dim3 blockIdx, threadIdx, blockDim, gridDim;

/* --- fibers --- */

/* Saves the callee's registers and the stack of the caller, and goes on where `to` was saved. */
extern "C" void emulate_switch(void **from, void *to);
#if defined(__x86_64__)
__asm__(".text\n.globl emulate_switch\n.type emulate_switch, @function\nemulate_switch:\n"
        "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
        "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
        "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
        ".size emulate_switch, .-emulate_switch\n");
enum { SAVED_WORDS = 6, RETURN_WORD = 6 };
#elif defined(__aarch64__)
__asm__(".text\n.globl emulate_switch\n.type emulate_switch, %function\nemulate_switch:\n"
        "sub sp, sp, #160\nstp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\n"
        "stp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\nstp x29, x30, [sp, #80]\nstp d8, d9, [sp, #96]\n"
        "stp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\nmov x9, sp\n"
        "str x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\n"
        "ldp x27, x28, [sp, #64]\nldp x29, x30, [sp, #80]\nldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\n"
        "ldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\nadd sp, sp, #160\nret\n"
        ".size emulate_switch, .-emulate_switch\n");
enum { SAVED_WORDS = 20, RETURN_WORD = 11 };
#else
#error "the emulated device has no switch of stacks for this processor"
#endif

/* What a thread waits for. */
enum wait { WAIT_NONE, WAIT_BLOCK, WAIT_WARP };

/* On its way to shared memory, in the group that was open then. */
struct fetch {
    void *to;
    const void *from; /* NULL: zeros */
    int group;
};

struct fiber {
    char *stack;
    void *saved;
    bool is_done;
    enum wait wait;
    struct fetch fetch[FETCHES_MAX];
    int fetch_count, group;
};

static struct {
    pthread_mutex_t lock; /* one launch at a time */
    struct fiber fiber[THREADS_MAX];
    uint64_t slot[THREADS_MAX]; /* what each lane brings to a shuffle */
    unsigned count, current;
    void *scheduler;
    const char *kernel;
    void (*run)(void *);
    void *context;
    uint64_t launches;
} device = {PTHREAD_MUTEX_INITIALIZER, {}, {}, 0, 0, NULL, NULL, NULL, NULL, 0};

static void leave(void)
{
    emulate_switch(&device.fiber[device.current].saved, device.scheduler);
}

static void fiber_main(void)
{
    device.run(device.context);
    device.fiber[device.current].is_done = true;
    leave();
}

static void fiber_begin(struct fiber *fiber)
{
    void **top;

    if (!fiber->stack)
        fiber->stack = (char *)mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    /* the stack is as behind a call: one word off a multiple of 16 where the processor pushes the return address */
    top = (void **)(fiber->stack + STACK_BYTES - 64) - SAVED_WORDS;
    if (SAVED_WORDS == RETURN_WORD)
        top--;
    if (SAVED_WORDS == RETURN_WORD && ((uintptr_t)(top + SAVED_WORDS + 1) & 15) != 8)
        top--;
    memset(top, 0, SAVED_WORDS * sizeof *top);
    top[RETURN_WORD] = (void *)fiber_main;
    fiber->saved = top;
    fiber->is_done = false;
    fiber->wait = WAIT_NONE;
    fiber->fetch_count = fiber->group = 0;
}

static void wait_for(enum wait wait)
{
    device.fiber[device.current].wait = wait;
    leave();
}

void __syncthreads(void)
{
    wait_for(WAIT_BLOCK);
}

uint64_t emulate_exchange(uint64_t bits, int lane)
{
    unsigned warp = device.current / WARP * WARP;
    uint64_t got;

    device.slot[device.current] = bits;
    wait_for(WAIT_WARP);
    got = device.slot[warp + (unsigned)lane];
    wait_for(WAIT_WARP); /* before the next shuffle writes */
    return got;
}

/* Of the operands' shares: lane 4r + c has rows r and r + 8 of a at columns 2c, 2c + 1, 2c + 8 and 2c + 9; of b those
 * rows of column r; of the sums rows r and r + 8 at columns 2c and 2c + 1. */
void multiply_16x8x16(float sums[4], const uint32_t a[4], const uint32_t b[2])
{
    unsigned warp = device.current / WARP * WARP, lane = device.current % WARP;
    const uint32_t *shares[2] = {a, b};

    const void *own = shares;

    memcpy(&device.slot[device.current], &own, sizeof own);
    wait_for(WAIT_WARP);
    for (int i = 0; i < 4; i++) {
        unsigned row = lane / 4 + (i / 2) * 8, col = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; k++) {
            const uint32_t *const *of_a, *const *of_b;
            uint32_t x, y;
            memcpy(&of_a, &device.slot[warp + row % 8 * 4 + k % 8 / 2], sizeof of_a);
            memcpy(&of_b, &device.slot[warp + col * 4 + k % 8 / 2], sizeof of_b);
            x = of_a[0][row / 8 + k / 8 * 2];
            y = of_b[1][k / 8];
            sum += wide_of((unsigned short)(k % 2 ? x >> 16 : x)) * wide_of((unsigned short)(k % 2 ? y >> 16 : y));
        }
        sums[i] += sum;
    }
    wait_for(WAIT_WARP);
}

static void expect(bool condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s: thread %u: %s\n", device.kernel, device.current, what);
    abort();
}

/* Element (row, col) of a matrix that eight lanes have named the rows of. */
static uint32_t element_of(unsigned matrix, unsigned row, unsigned col)
{
    unsigned warp = device.current / WARP * WARP;
    const unsigned short *at;

    memcpy(&at, &device.slot[warp + matrix * 8 + row], sizeof at);
    return at[col];
}

static void exchange_matrices(uint32_t to[4], const void *row, bool is_turned)
{
    unsigned lane = device.current % WARP, pair = lane % 4 * 2;

    expect((uintptr_t)row % 16 == 0, "ldmatrix of a row that is not aligned");
    memcpy(&device.slot[device.current], &row, sizeof row);
    wait_for(WAIT_WARP);
    for (unsigned i = 0; i < 4; i++)
        to[i] = is_turned ? element_of(i, pair, lane / 4) | element_of(i, pair + 1, lane / 4) << 16
                          : element_of(i, lane / 4, pair) | element_of(i, lane / 4, pair + 1) << 16;
    wait_for(WAIT_WARP);
}

void load_matrices(uint32_t to[4], const void *row)
{
    exchange_matrices(to, row, false);
}

void load_matrices_turned(uint32_t to[4], const void *row)
{
    exchange_matrices(to, row, true);
}

void fetch_16(void *to, const void *from, bool is_there)
{
    struct fiber *fiber = &device.fiber[device.current];

    expect(((uintptr_t)to | (uintptr_t)from) % 16 == 0, "cp.async of what is not aligned");
    expect(fiber->fetch_count < FETCHES_MAX, "more is on its way than the emulation has room for");
    memset(to, 0x7f, 16); /* what nobody may read yet: large numbers */
    fiber->fetch[fiber->fetch_count++] = {to, is_there ? from : NULL, fiber->group};
}

void fetch_group(void)
{
    device.fiber[device.current].group++;
}

void emulate_fetch_wait(int left)
{
    struct fiber *fiber = &device.fiber[device.current];
    int kept = 0;

    for (int i = 0; i < fiber->fetch_count; i++) {
        struct fetch *fetch = &fiber->fetch[i];
        if (fetch->group >= fiber->group - left)
            fiber->fetch[kept++] = *fetch;
        else if (fetch->from)
            memcpy(fetch->to, fetch->from, 16);
        else
            memset(fetch->to, 0, 16);
    }
    fiber->fetch_count = kept;
}

/* Lets those go on who wait for the same, if nobody among first .. end does anything else; the number of them. Threads
 * that are done do not count at a block's barrier, but a warp shuffles whole or not at all. */
static unsigned release(unsigned first, unsigned end, enum wait wait)
{
    unsigned waiting = 0, done = 0;

    for (unsigned i = first; i < end; i++) {
        done += device.fiber[i].is_done;
        waiting += !device.fiber[i].is_done && device.fiber[i].wait == wait;
    }
    if (!waiting || waiting + done < end - first || (wait == WAIT_WARP && done))
        return 0;
    for (unsigned i = first; i < end; i++)
        device.fiber[i].wait = WAIT_NONE;
    return waiting;
}

/* Runs everybody who can run; the number of them. */
static unsigned run_round(bool is_backward)
{
    unsigned ran = 0;

    for (unsigned k = 0; k < device.count; k++) {
        unsigned i = is_backward ? device.count - 1 - k : k;
        if (device.fiber[i].is_done || device.fiber[i].wait != WAIT_NONE)
            continue;
        device.current = i;
        threadIdx = dim3(i, 0, 0);
        emulate_switch(&device.scheduler, device.fiber[i].saved);
        ran++;
    }
    return ran;
}

static void run_block(bool is_backward)
{
    for (unsigned i = 0; i < device.count; i++)
        fiber_begin(&device.fiber[i]);
    for (;;) {
        unsigned alive = 0, released = 0;
        run_round(is_backward);
        for (unsigned i = 0; i < device.count; i++)
            alive += !device.fiber[i].is_done;
        if (!alive)
            return;
        for (unsigned warp = 0; warp < device.count; warp += WARP)
            released += release(warp, warp + WARP < device.count ? warp + WARP : device.count, WAIT_WARP);
        released += release(0, device.count, WAIT_BLOCK);
        if (!released) {
            fprintf(stderr, "%s: block %u, %u, %u: its threads wait for each other\n", device.kernel, blockIdx.x,
                    blockIdx.y, blockIdx.z);
            abort();
        }
    }
}

/* --- memory --- */

static const size_t ARENA_BYTES = (size_t)64 << 30; /* of addresses */
static const size_t ROOM_BYTES = (size_t)4 << 30;   /* that the device says it has */
static const size_t POISON_BYTES = (size_t)1 << 20; /* of fresh memory */

static struct {
    char *at;
    size_t used_bytes, count;
} arena;

/* What operations may touch and the host may not: open from the first launch behind a
 * synchronization to the next one. */
static void open_arena(bool is_open)
{
    static bool was_open;
    static size_t was_bytes;

    if (arena.used_bytes && (was_open != is_open || was_bytes != arena.used_bytes))
        mprotect(arena.at, arena.used_bytes, is_open ? PROT_READ | PROT_WRITE : PROT_NONE);
    was_open = is_open;
    was_bytes = arena.used_bytes;
}

/* Streams run in the order of the calls, but what one copies to the host that waits for another: that is put off. */
struct emulated_stream {
    bool is_aside;
    struct {
        void *to;
        const void *from;
        size_t bytes;
    } late[16];
    int late_count;
};
struct emulated_event {
    cudaStream_t stream; /* that recorded it */
};

/* On its way to pinned memory. */
struct delivery {
    struct delivery *next;
    void *to;
    size_t bytes;
    char at[];
};

static struct delivery *deliveries; /* under the device's lock, the first one last */

static void deliver(void)
{
    struct delivery *turned = NULL;

    while (deliveries) {
        struct delivery *one = deliveries;
        deliveries = one->next;
        one->next = turned;
        turned = one;
    }
    while (turned) {
        struct delivery *next = turned->next;
        memcpy(turned->to, turned->at, turned->bytes);
        free(turned);
        turned = next;
    }
}

static void deliver_later(void *to, const void *from, size_t bytes)
{
    struct delivery *one = (struct delivery *)malloc(sizeof *one + bytes);

    if (!one)
        abort();
    one->next = deliveries;
    one->to = to;
    one->bytes = bytes;
    memcpy(one->at, from, bytes);
    memset(to, 0xff, bytes);
    deliveries = one;
}

enum { PINNED_MAX = 256 };
static struct {
    char *at;
    size_t bytes;
} pinned[PINNED_MAX];

static bool is_pinned(const void *at)
{
    for (int i = 0; i < PINNED_MAX; i++)
        if (pinned[i].at && (const char *)at >= pinned[i].at && (const char *)at < pinned[i].at + pinned[i].bytes)
            return true;
    return false;
}

cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags)
{
    int free_at = 0;

    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    while (free_at < PINNED_MAX && pinned[free_at].at)
        free_at++;
    if (free_at < PINNED_MAX && posix_memalign(at, 4096, bytes) == 0)
        pinned[free_at] = {(char *)*at, bytes};
    else
        free_at = PINNED_MAX;
    pthread_mutex_unlock(&device.lock);
    return free_at < PINNED_MAX ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *at)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    deliver();
    for (int i = 0; i < PINNED_MAX; i++)
        if (pinned[i].at == at)
            pinned[i].at = NULL;
    free(at);
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

/* What a stream has put off. */
static void catch_up(cudaStream_t stream)
{
    for (int i = 0; i < stream->late_count; i++) {
        open_arena(true);
        memcpy(stream->late[i].to, stream->late[i].from, stream->late[i].bytes);
    }
    stream->late_count = 0;
}

static void put_off(cudaStream_t stream, void *to, const void *from, size_t bytes)
{
    if (stream->late_count == 16)
        abort();
    memset(to, 0xff, bytes);
    stream->late[stream->late_count++] = {to, from, bytes};
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = (cudaStream_t)calloc(1, sizeof **stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = (cudaEvent_t)calloc(1, sizeof **event);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    free(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    event->stream = stream;
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    if (event->stream)
        catch_up(event->stream);
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    if (event->stream && event->stream->is_aside)
        catch_up(event->stream);
    else
        stream->is_aside = true;
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    static int asked;

    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    return ++asked % 3 ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    deliver();
    catch_up(stream);
    open_arena(false);
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

void emulate_launch(const char *kernel, struct dim3 grid, unsigned threads, size_t shared_bytes, void (*run)(void *),
                    void *context)
{
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    bool is_backward;

    if (!blocks || !threads || threads > THREADS_MAX || threads % WARP || grid.y > 65535 || grid.z > 65535 ||
        shared_bytes > SHARED_BYTES) {
        fprintf(stderr, "%s: %u x %u x %u blocks of %u threads with %zu bytes cannot be launched\n", kernel, grid.x,
                grid.y, grid.z, threads, shared_bytes);
        abort();
    }
    pthread_mutex_lock(&device.lock);
    open_arena(true);
    is_backward = device.launches++ % 2;
    device.kernel = kernel;
    device.run = run;
    device.context = context;
    device.count = threads;
    gridDim = grid;
    blockDim = dim3(threads, 1, 1);
    for (uint64_t k = 0; k < blocks; k++) {
        uint64_t i = is_backward ? blocks - 1 - k : k;
        memset(emulate_shared, 0x7f, shared_bytes);
        blockIdx = dim3((unsigned)(i % grid.x), (unsigned)(i / grid.x % grid.y), (unsigned)(i / grid.x / grid.y));
        run_block(is_backward);
    }
    pthread_mutex_unlock(&device.lock);
}

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    size_t whole = (bytes + 4095) / 4096 * 4096 + 4096; /* with a page between */

    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    pthread_mutex_lock(&device.lock);
    if (!arena.at)
        arena.at = (char *)mmap(NULL, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bytes > ROOM_BYTES || arena.used_bytes + whole > ARENA_BYTES) {
        pthread_mutex_unlock(&device.lock);
        return cudaErrorMemoryAllocation;
    }
    *at = arena.at + arena.used_bytes;
    arena.used_bytes += whole;
    arena.count++;
    open_arena(true);
    memset(*at, 0xcd, bytes < POISON_BYTES ? bytes : POISON_BYTES);
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

/* Pages go back when nothing is left. */
cudaError_t cudaFree(void *at)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    if ((char *)at < arena.at || (char *)at >= arena.at + ARENA_BYTES) {
        free(at);
        return cudaSuccess;
    }
    pthread_mutex_lock(&device.lock);
    if (--arena.count == 0) {
        madvise(arena.at, arena.used_bytes, MADV_DONTNEED);
        open_arena(false);
        arena.used_bytes = 0;
    }
    pthread_mutex_unlock(&device.lock);
    return cudaSuccess;
}

cudaError_t cudaMallocManaged(void **at, size_t bytes, unsigned flags)
{
    if (emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    return posix_memalign(at, 256, bytes) == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream)
{
    emulate_queue(stream, [=] {
        pthread_mutex_lock(&device.lock);
        open_arena(true);
        memset(at, value, bytes);
        pthread_mutex_unlock(&device.lock);
    });
    return cudaSuccess;
}

static void copy(void *to, size_t to_ld, const void *from, size_t from_ld, size_t row_bytes, size_t rows,
                 cudaMemcpyKind kind, cudaStream_t stream)
{
    pthread_mutex_lock(&device.lock);
    open_arena(true);
    if (kind == cudaMemcpyDeviceToHost && rows == 1 && is_pinned(to) && stream->is_aside)
        put_off(stream, to, from, row_bytes);
    else if (kind == cudaMemcpyDeviceToHost && rows == 1 && is_pinned(to))
        deliver_later(to, from, row_bytes);
    for (size_t r = 0; r < rows && !(rows == 1 && is_pinned(to)); r++)
        memcpy((char *)to + r * to_ld, (const char *)from + r * from_ld, row_bytes);
    pthread_mutex_unlock(&device.lock);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_ld, const void *from, size_t from_ld, size_t row_bytes, size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream)
{
    if (emulate_records(stream) && !is_pinned(kind == cudaMemcpyDeviceToHost ? to : from) && emulate_forbids())
        return cudaErrorStreamCaptureUnsupported;
    emulate_queue(stream, [=] { copy(to, to_ld, from, from_ld, row_bytes, rows, kind, stream); });
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *bytes)
{
    *free_bytes = *bytes = ROOM_BYTES;
    return cudaSuccess;
}

/* What the stand-in of cuBLASLt does to the device's memory, it does here. */
void emulate_memory_open(bool is_open);
void emulate_memory_open(bool is_open)
{
    if (is_open)
        pthread_mutex_lock(&device.lock);
    if (is_open)
        open_arena(true);
    if (!is_open)
        pthread_mutex_unlock(&device.lock);
}
