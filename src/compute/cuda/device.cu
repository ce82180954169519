/* The table of the CUDA backend, its queues and its memory. The other files are part of this one. */
#include "compute/cuda/cuda_int.h"

#include "compute/cuda/rows.cu"
#include "compute/cuda/norm.cu"
#include "compute/cuda/qk.cu"
#include "compute/cuda/loss.cu"
#include "compute/cuda/adamw.cu"
#include "compute/cuda/attend.cu"
#include "compute/cuda/route.cu"
#include "compute/cuda/blas.cu"
#include "compute/cuda/linear.cu"
#include "compute/cuda/graphs.cu"

extern "C" {
#include "compute/cuda/module.h"
}
#include "compute/layout.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- queues and memory --- */

static bool refuse(struct err *err, const char *what, cudaError_t error)
{
    return err_set(err, ERR_UNSUPPORTED, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* Pinned memory through which small transfers go to the device while the host goes on: slots take turns, and one is
 * taken again when its last transfer is over. */
enum { STAGES = 8 };
static const size_t STAGE_BYTES = (size_t)2 << 20;

struct staging {
    pthread_mutex_t lock; /* models are loaded by several threads */
    char *slot[STAGES];
    cudaEvent_t sent[STAGES];
    int next;
};

static void staging_close(struct staging *staging)
{
    for (int i = 0; staging && i < STAGES; i++) {
        if (staging->sent[i])
            cudaEventDestroy(staging->sent[i]);
        if (staging->slot[i])
            cudaFreeHost(staging->slot[i]);
    }
    if (staging)
        pthread_mutex_destroy(&staging->lock);
    free(staging);
}

/* NULL: the host has no memory to pin, and transfers are waited for. */
static struct staging *staging_open(void)
{
    struct staging *staging = (struct staging *)calloc(1, sizeof *staging);
    bool ok = true;

    if (!staging)
        die("there is no memory");
    pthread_mutex_init(&staging->lock, NULL);
    for (int i = 0; ok && i < STAGES; i++)
        ok = cudaEventCreateWithFlags(&staging->sent[i], cudaEventDisableTiming) == cudaSuccess &&
             cudaHostAlloc((void **)&staging->slot[i], STAGE_BYTES, cudaHostAllocDefault) == cudaSuccess;
    if (ok)
        return staging;
    cudaGetLastError();
    staging_close(staging);
    return NULL;
}

static void aside_close(struct cuda_state *state)
{
    if (!state->aside)
        return;
    cudaStreamSynchronize(state->aside);
    cudaEventDestroy(state->begun);
    cudaEventDestroy(state->over);
    cudaStreamDestroy(state->aside);
}

static void queue_close(struct queue *queue)
{
    struct cuda_state *state = cuda_state_of(queue);

    if (!state)
        return;
    cudaSetDevice(state->device);
    if (state->stream)
        cudaStreamSynchronize(state->stream);
    aside_close(state);
    staging_close(state->staging);
    graphs_close(state->graphs);
    blas_close(state->blas);
    if (state->workspace)
        cudaFree(state->workspace);
    if (state->stream)
        cudaStreamDestroy(state->stream);
    free(state);
    queue->state = NULL;
}

static bool queue_open(struct queue *queue, struct err *err)
{
    struct cuda_state *state = (struct cuda_state *)calloc(1, sizeof *state);
    struct cudaDeviceProp properties;
    cudaError_t error;

    if (!state)
        die("there is no memory");
    queue->state = state;
    state->device = queue->device;
    state->graphs = graphs_open();
    state->is_checked = getenv("ATTUNE_CUDA_CHECK") != NULL;
    error = cudaSetDevice(queue->device);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaMalloc(&state->workspace, BLAS_WORKSPACE);
    if (error != cudaSuccess) {
        queue_close(queue);
        return refuse(err, "opening the device", error);
    }
    state->staging = staging_open();
    state->blas = blas_open(state->workspace);
    state->has_eight = cudaGetDeviceProperties(&properties, queue->device) == cudaSuccess &&
                       10 * properties.major + properties.minor >= EIGHT_CAPABILITY;
    return true;
}

/* Before calls that cannot go into a graph. Models are loaded by several threads, each of which names the device. */
static struct cuda_state *enter(struct queue *queue)
{
    struct cuda_state *state = cuda_state_of(queue);

    if (state)
        graphs_break(state);
    cudaSetDevice(queue->device);
    return state;
}

static void memory_zero(struct queue *queue, void *at, size_t bytes)
{
    struct cuda_state *state = cuda_state_of(queue);

    if (bytes)
        cuda_queued(state, cudaMemsetAsync(at, 0, bytes, state->stream), "setting memory to zero");
}

static void *memory_take(struct queue *queue, size_t bytes)
{
    void *at = NULL;

    enter(queue);
    if (!bytes)
        return NULL;
    if (cudaMalloc(&at, bytes) != cudaSuccess) {
        cudaGetLastError(); /* forgets it: the caller says what could not be had */
        return NULL;
    }
    memory_zero(queue, at, bytes);
    return at;
}

static void *memory_take_shared(struct queue *queue, size_t bytes)
{
    void *at = NULL;

    enter(queue);
    if (!bytes || cudaMallocManaged(&at, bytes, cudaMemAttachGlobal) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    memset(at, 0, bytes);
    return at;
}

static void memory_give(struct queue *queue, void *at)
{
    enter(queue);
    if (at)
        cuda_check(cudaFree(at), "giving memory back");
}

static void queue_wait(struct queue *queue)
{
    cuda_check(cudaStreamSynchronize(enter(queue)->stream), "waiting for the device");
}

static void memory_move(struct queue *queue, struct stretches to, struct stretches from, size_t row_bytes, size_t rows,
                        cudaMemcpyKind kind)
{
    cudaStream_t stream = enter(queue)->stream;
    cudaError_t error;

    if (!row_bytes || !rows)
        return;
    if (rows == 1 || (to.ld == row_bytes && from.ld == row_bytes))
        error = cudaMemcpyAsync(to.at, from.at, row_bytes * rows, kind, stream);
    else
        error = cudaMemcpy2DAsync(to.at, to.ld, from.at, from.ld, row_bytes, rows, kind, stream);
    cuda_check(error, "moving memory");
    queue_wait(queue);
}

static void put_staged(struct cuda_state *state, struct stretches to, struct stretches from, size_t row_bytes,
                       size_t rows)
{
    struct staging *staging = state->staging;
    int i;

    pthread_mutex_lock(&staging->lock);
    i = staging->next++ % STAGES;
    /* Of an event that nothing recorded it returns at once. */
    cuda_check(cudaEventSynchronize(staging->sent[i]), "waiting for a transfer");
    for (size_t r = 0; r < rows; r++)
        memcpy(staging->slot[i] + r * row_bytes, (const char *)from.at + r * from.ld, row_bytes);
    cuda_check(cudaMemcpy2DAsync(to.at, rows == 1 ? row_bytes : to.ld, staging->slot[i], row_bytes, row_bytes, rows,
                                 cudaMemcpyHostToDevice, state->stream),
               "moving memory");
    cuda_check(cudaEventRecord(staging->sent[i], state->stream), "moving memory");
    pthread_mutex_unlock(&staging->lock);
}

static void memory_put(struct queue *queue, struct stretches to, struct stretches from, size_t row_bytes, size_t rows)
{
    struct cuda_state *state = enter(queue);

    if (state->staging && row_bytes && rows && row_bytes <= STAGE_BYTES / rows) {
        put_staged(state, to, from, row_bytes, rows);
        return;
    }
    memory_move(queue, to, from, row_bytes, rows, cudaMemcpyHostToDevice);
}

static void memory_get(struct queue *queue, struct stretches to, struct stretches from, size_t row_bytes, size_t rows)
{
    memory_move(queue, to, from, row_bytes, rows, cudaMemcpyDeviceToHost);
}

static void memory_get_later(struct queue *queue, void *to, const void *from, size_t bytes)
{
    if (bytes)
        cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, enter(queue)->stream),
                   "moving memory");
}

static void aside_open(struct cuda_state *state)
{
    cuda_check(cudaStreamCreateWithFlags(&state->aside, cudaStreamNonBlocking), "opening a second stream");
    cuda_check(cudaEventCreateWithFlags(&state->begun, cudaEventDisableTiming), "opening a second stream");
    cuda_check(cudaEventCreateWithFlags(&state->over, cudaEventDisableTiming), "opening a second stream");
}

static void aside_get(struct queue *queue, void *to, const void *from, size_t bytes)
{
    struct cuda_state *state = enter(queue);

    if (!bytes)
        return;
    if (!state->aside)
        aside_open(state);
    cuda_check(cudaEventRecord(state->begun, state->stream), "copying aside");
    cuda_check(cudaStreamWaitEvent(state->aside, state->begun, 0), "copying aside");
    cuda_check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, state->aside), "copying aside");
    cuda_check(cudaEventRecord(state->over, state->aside), "copying aside");
}

static void aside_hold(struct queue *queue)
{
    struct cuda_state *state = enter(queue);

    if (state->aside)
        cuda_check(cudaStreamWaitEvent(state->stream, state->over, 0), "waiting for copies aside");
}

static void aside_wait(struct queue *queue)
{
    struct cuda_state *state = enter(queue);

    if (state->aside)
        cuda_check(cudaEventSynchronize(state->over), "waiting for copies aside");
}

static bool queue_is_idle(struct queue *queue)
{
    cudaError_t error = cudaStreamQuery(enter(queue)->stream);

    if (error == cudaErrorNotReady)
        cudaGetLastError(); /* which is no error: launches look for those */
    else
        cuda_check(error, "asking the device");
    return error == cudaSuccess;
}

static void *memory_take_host(struct queue *queue, size_t bytes)
{
    void *at = NULL;

    enter(queue);
    if (!bytes || cudaHostAlloc(&at, bytes, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    return at;
}

static void memory_give_host(struct queue *queue, void *at)
{
    enter(queue);
    if (at)
        cuda_check(cudaFreeHost(at), "giving memory back");
}

static size_t memory_free_bytes(struct queue *queue)
{
    size_t free_bytes = 0, bytes = 0;

    cudaSetDevice(queue->device);
    if (cudaMemGetInfo(&free_bytes, &bytes) != cudaSuccess)
        cudaGetLastError();
    return free_bytes;
}

static const struct memory cuda_memory = {queue_open, queue_close, memory_take, memory_take_shared, memory_give,
                                          memory_zero, memory_put, memory_get, memory_get_later, memory_take_host,
                                          memory_give_host, queue_wait, memory_free_bytes};

static const struct aside cuda_aside = {aside_get, aside_hold, aside_wait, queue_is_idle};

/* --- the table --- */

static bool can(enum op op, const void *args, struct err *err)
{
    if (op == OP_loss && ((const struct op_loss *)args)->grad.at)
        return err_set(err, ERR_UNSUPPORTED, "loss: the CUDA backend leaves the gradient where the logits were");
    return op_check(op, args, false, err);
}

static size_t scratch_bytes(enum op op, const void *args, int thread_count)
{
    switch (op) {
    case OP_norm_grad:
        return norm_grad_scratch((const struct op_norm_grad *)args);
    case OP_qk_rope_grad:
        return qk_rope_grad_scratch((const struct op_qk_rope_grad *)args);
    case OP_attend_grad:
        return attend_grad_scratch((const struct op_attend_grad *)args);
    case OP_linear:
        return linear_scratch_bytes((const struct op_linear *)args);
    case OP_linear_grad_in:
        return linear_grad_in_scratch_bytes((const struct op_linear_grad_in *)args);
    case OP_linear_grad_w:
        return linear_grad_w_scratch_bytes((const struct op_linear_grad_w *)args);
    case OP_route:
        return route_scratch_bytes((const struct op_route *)args);
    case OP_route_grad:
        return route_grad_scratch_bytes((const struct op_route_grad *)args);
    case OP_gain_grad:
        return gain_grad_scratch((const struct op_gain_grad *)args);
    default:
        return 0;
    }
}

static const struct backend cuda_backend = {
    "cuda",
    &cuda_memory,
#define CUDA_FIELD(op) cuda_##op,
    OPS(CUDA_FIELD)
#undef CUDA_FIELD
    can,
    scratch_bytes,
    NULL, /* no panels */
    NULL,
};

/* --- devices --- */

/* The runtime that is linked in (CUDA 13) takes drivers of its own version and newer. */
enum { DRIVER_LEAST = 13000 };

static int device_count(struct err *err)
{
    int count = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&count);

    if (error == cudaSuccess && count)
        return count;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    if (!driver)
        err_set(err, ERR_NOT_FOUND, "cuda: there is no NVIDIA driver (libcuda.so.1); 580 or newer is needed");
    else if (driver < DRIVER_LEAST)
        err_set(err, ERR_UNSUPPORTED,
                "cuda: the NVIDIA driver is too old: it has CUDA %d.%d, and 13.0 is needed (driver 580 or newer)",
                driver / 1000, driver % 1000 / 10);
    else if (error != cudaSuccess)
        refuse(err, "looking for devices", error);
    else
        err_set(err, ERR_NOT_FOUND, "cuda: there is no device");
    return 0;
}

static bool device_describe(int device, struct device_info *info, struct err *err)
{
    cudaDeviceProp properties;
    size_t free_bytes = 0, bytes = 0;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);

    if (error == cudaSuccess)
        error = cudaSetDevice(device);
    if (error == cudaSuccess)
        error = cudaMemGetInfo(&free_bytes, &bytes);
    if (error != cudaSuccess)
        return refuse(err, "asking a device", error);
    snprintf(info->name, sizeof info->name, "%.127s", properties.name);
    info->bytes = bytes;
    info->free_bytes = free_bytes;
    info->major = properties.major;
    info->minor = properties.minor;
    return true;
}

static const struct cuda_module module = {sizeof(struct cuda_module), ATTUNE_LAYOUT, ATTUNE_VERSION, &cuda_backend,
                                          &cuda_aside, &cuda_graphs, device_count, device_describe};

extern "C" __attribute__((visibility("default"))) const struct cuda_module *attune_cuda_module(void);
const struct cuda_module *attune_cuda_module(void)
{
    return &module;
}
