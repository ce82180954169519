/* tests/cuda/emulate.h - a device for kernels on the host's processor; see compute/cuda/lang.h.
 *
 * A launch runs its blocks one after the other. The threads of a block are fibers: each runs until it waits at a
 * barrier or a shuffle, then the next one does. When all that are left wait and none can go on, the process ends with
 * the kernel's name. Every other launch runs blocks and threads from the last to the first, so that what depends on
 * their order shows as other bits. What is fetched to shared memory comes as late as a kernel's waits allow. Memory of
 * cudaMalloc faults when the host touches it behind a synchronization; when it is fresh it is not zero. What is copied
 * to memory of cudaHostAlloc comes with the next synchronization and is not a number until then; on a stream that has
 * waited for another it is read and comes as late as the waits for its events allow. What a stream records does not
 * run; a graph runs it, with copies of the arguments that it was recorded with. */
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* --- the language --- */

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern thread_local struct dim3 blockIdx, threadIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
struct uint4 {
    uint32_t x, y, z, w;
};
struct uint2 {
    uint32_t x, y;
};
struct float4 {
    float x, y, z, w;
};
#define UNROLL
#define __expf expf

void __syncthreads(void);
uint64_t emulate_exchange(uint64_t bits, int lane); /* what `lane` of the warp brought */
void multiply_16x8x16(float sums[4], const uint32_t a[4], const uint32_t b[2]);
void load_matrices(uint32_t to[4], const void *row);
void load_matrices_turned(uint32_t to[4], const void *row);
void fetch_16(void *to, const void *from, bool is_there);
void fetch_group(void);
void emulate_fetch_wait(int left);
template <int left> static inline void fetch_wait(void)
{
    emulate_fetch_wait(left);
}
static inline float power_of_two(float x)
{
    return exp2f(x);
}
extern unsigned char emulate_shared[];
#define SHARED_MEMORY(type, name) type &name = *(type *)emulate_shared

template <typename T> static inline T emulate_shuffle(T value, int lane)
{
    uint64_t bits = 0;

    static_assert(sizeof value <= sizeof bits, "a shuffle moves 8 bytes at most");
    memcpy(&bits, &value, sizeof value);
    bits = emulate_exchange(bits, lane);
    memcpy(&value, &bits, sizeof value);
    return value;
}
#define SHUFFLE_XOR(value, mask) emulate_shuffle(value, (int)(threadIdx.x % 32) ^ (mask))
#define SHUFFLE(value, lane) emulate_shuffle(value, lane)

/* --- launches, and graphs of them --- */

typedef struct emulated_stream *cudaStream_t;
typedef struct emulated_graph *cudaGraph_t, *cudaGraphExec_t;

bool emulate_records(cudaStream_t stream); /* into a graph, by this thread */
bool emulate_forbids(void);                /* whether this thread records anything: what it has is void then */
/* False: the stream does not record. Else its graph has the work and a copy of what it is told. */
bool emulate_keep(cudaStream_t stream, void (*run)(void *), const void *context, size_t bytes);
void emulate_load(const void *kernel);

/* Now, or as a part of the graph that the stream records. */
template <typename F> static inline void emulate_queue(cudaStream_t stream, F work)
{
    static_assert(__is_trivially_copyable(F), "a graph has copies of what its work is told");
    if (!emulate_keep(stream, [](void *context) { (*(F *)context)(); }, &work, sizeof work))
        work();
}

void emulate_launch(const char *kernel, struct dim3 grid, unsigned threads, size_t shared_bytes, void (*run)(void *),
                    void *context);
template <typename... P, typename... A>
static inline void emulate_launch_of(cudaStream_t stream, const char *name, struct dim3 grid, unsigned threads,
                                     size_t shared_bytes, void (*kernel)(P...), A... arguments)
{
    auto thread = [=] { kernel(arguments...); };

    emulate_load((const void *)kernel);
    emulate_queue(stream, [=] {
        emulate_launch(name, grid, threads, shared_bytes, [](void *context) { (*(decltype(thread) *)context)(); },
                       (void *)&thread);
    });
}
#define LAUNCH(queue, kernel, grid, threads, ...)                                                                      \
    emulate_launch_of(cuda_state_of(queue)->stream, #kernel, grid, threads, 0, kernel, __VA_ARGS__)
#define LAUNCH_SHARED(queue, kernel, grid, threads, bytes, ...)                                                        \
    emulate_launch_of(cuda_state_of(queue)->stream, #kernel, grid, threads, bytes, kernel, __VA_ARGS__)

static inline float wide_of(unsigned short half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline unsigned short half_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return 0x7fff;
    return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float multiply_then_add(float a, float b, float c)
{
    volatile float product = a * b;

    return product + c;
}

/* --- the runtime --- */

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNoDevice = 100,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901
};
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum { cudaStreamNonBlocking = 1, cudaMemAttachGlobal = 1, cudaHostAllocDefault = 0, cudaEventDisableTiming = 2 };
typedef struct emulated_event *cudaEvent_t;
struct cudaDeviceProp {
    char name[256];
    int major, minor;
};

cudaError_t cudaMalloc(void **at, size_t bytes);
cudaError_t cudaMallocManaged(void **at, size_t bytes, unsigned flags);
cudaError_t cudaFree(void *at);
cudaError_t cudaMemsetAsync(void *at, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_ld, const void *from, size_t from_ld, size_t row_bytes, size_t rows,
                              cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void *at);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *bytes);
static inline cudaError_t cudaSetDevice(int device)
{
    return cudaSuccess;
}
/* There are as many devices as ATTUNE_EMULATED_GPUS says; none without it, so that a build with
 * tests is as one for people. */
static inline cudaError_t cudaGetDeviceCount(int *count)
{
    const char *text = getenv("ATTUNE_EMULATED_GPUS");

    *count = text ? atoi(text) : 0;
    return *count ? cudaSuccess : cudaErrorNoDevice;
}
static inline cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}
/* Of the compute capability that ATTUNE_EMULATED_CAPABILITY says, such as 90; 0 without it. */
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    const char *text = getenv("ATTUNE_EMULATED_CAPABILITY");

    strcpy(properties->name, "emulated");
    properties->major = text ? atoi(text) / 10 : 0;
    properties->minor = text ? atoi(text) % 10 : 0;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamQuery(cudaStream_t stream); /* ready at every third question */
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
/* There is no room for one with ATTUNE_EMULATED_NO_GRAPHS. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    return cudaEventCreate(event);
}
/* Less every time: the last candidate is the fastest. */
static inline cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    static float last = 1e6f;

    *ms = last -= 1;
    return cudaSuccess;
}
static inline cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}
static inline const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorNoDevice:
        return "there is no device";
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
        return "not while a stream is recorded";
    default:
        return "there is no room";
    }
}

/* cuBLASLt, opened as a library; see emulate_blas.cpp. */
void *emulate_dlopen(const char *name, int flags);
void *emulate_dlsym(void *library, const char *name);
enum { RTLD_NOW = 2, RTLD_LOCAL = 0 };
#define dlopen emulate_dlopen
#define dlsym emulate_dlsym
