/* Graphs of the emulated device. A thread records one stream at a time; while it does, what it may not do on a device
 * makes the record void. So does a kernel that nobody launched before, which a device may have to load then. */
#include "emulate.h"

#include <pthread.h>

struct node {
    struct node *next;
    void (*run)(void *);
    alignas(16) char context[];
};

/* As recorded or ready to launch, which are the same thing. */
struct emulated_graph {
    struct node *first, **end;
    int users;
};

static thread_local struct {
    cudaStream_t stream; /* NULL: nothing is recorded */
    struct emulated_graph *graph;
    bool is_void;
} record;

bool emulate_records(cudaStream_t stream)
{
    return record.stream == stream;
}

bool emulate_forbids(void)
{
    record.is_void = true;
    return record.stream != NULL;
}

bool emulate_keep(cudaStream_t stream, void (*run)(void *), const void *context, size_t bytes)
{
    struct node *node;

    if (record.stream != stream)
        return false;
    node = (struct node *)malloc(sizeof *node + bytes);
    if (!node)
        abort();
    node->next = NULL;
    node->run = run;
    memcpy(node->context, context, bytes);
    *record.graph->end = node;
    record.graph->end = &node->next;
    return true;
}

enum { KERNELS_MAX = 1024 };

void emulate_load(const void *kernel)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static const void *loaded[KERNELS_MAX];
    int i = 0;

    pthread_mutex_lock(&lock);
    while (loaded[i] && loaded[i] != kernel)
        if (++i == KERNELS_MAX)
            abort();
    if (!loaded[i] && record.stream)
        record.is_void = true;
    else
        loaded[i] = kernel;
    pthread_mutex_unlock(&lock);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    if (record.stream || !stream)
        return cudaErrorStreamCaptureUnsupported;
    record.stream = stream;
    record.is_void = false;
    record.graph = (struct emulated_graph *)calloc(1, sizeof *record.graph);
    if (!record.graph)
        abort();
    record.graph->end = &record.graph->first;
    record.graph->users = 1;
    return cudaSuccess;
}

static cudaError_t give(struct emulated_graph *graph)
{
    if (--graph->users)
        return cudaSuccess;
    while (graph->first) {
        struct node *next = graph->first->next;
        free(graph->first);
        graph->first = next;
    }
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = NULL;
    if (record.stream != stream)
        return cudaErrorStreamCaptureUnsupported;
    record.stream = NULL;
    if (record.is_void) {
        give(record.graph);
        return cudaErrorStreamCaptureInvalidated;
    }
    *graph = record.graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    if (getenv("ATTUNE_EMULATED_NO_GRAPHS"))
        return cudaErrorMemoryAllocation;
    *exec = graph;
    graph->users++;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    if (record.stream == stream)
        return emulate_forbids() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
    for (struct node *node = exec->first; node; node = node->next)
        node->run(node->context);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return give(graph);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    return give(exec);
}
