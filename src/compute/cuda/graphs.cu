/* Work that comes again, as graphs; see compute/graphs.h.
 *
 * While a stream records, nothing may wait, allocate or copy from memory that changes: whoever is about to calls
 * graphs_break first. What a record is refused for otherwise shows when it ends, and the work is then launched one by
 * one. */
#include "compute/cuda/cuda_int.h"

extern "C" {
#include "compute/graphs.h"
}

#include <stdlib.h>
#include <string.h>

struct graph {
    struct graph_key key;
    uint64_t used_at;     /* 0: the place is free */
    bool is_known;        /* it ran once, so that its kernels are loaded and its products planned */
    bool is_refused;      /* it cannot be recorded whole */
    cudaGraphExec_t exec; /* NULL: there is no record */
};

struct graph_set {
    struct graph graph[GRAPHS_MAX];
    uint64_t now;
    bool is_full; /* the device had no room for another */
    struct graph_counts counts;
};

static struct graph_set *graphs_open(void)
{
    struct graph_set *set = (struct graph_set *)calloc(1, sizeof *set);

    if (!set)
        die("there is no memory");
    return set;
}

/* A record that still runs goes when it is done. */
static void graph_drop(struct graph_set *set, struct graph *graph)
{
    if (graph->exec)
        cuda_check(cudaGraphExecDestroy(graph->exec), "giving a graph back");
    set->counts.kept -= graph->exec != NULL;
    *graph = {};
}

static void graphs_close(struct graph_set *set)
{
    for (int i = 0; set && i < GRAPHS_MAX; i++)
        graph_drop(set, &set->graph[i]);
    free(set);
}

/* That of the key, or the place of the one that was not asked for longest. */
static struct graph *graph_find(struct graph_set *set, const struct graph_key *key)
{
    struct graph *oldest = &set->graph[0];

    set->now++;
    for (int i = 0; i < GRAPHS_MAX; i++) {
        struct graph *graph = &set->graph[i];
        if (graph->used_at && memcmp(&graph->key, key, sizeof *key) == 0) {
            graph->used_at = set->now;
            return graph;
        }
        if (graph->used_at < oldest->used_at)
            oldest = graph;
    }
    graph_drop(set, oldest);
    oldest->key = *key;
    oldest->used_at = set->now;
    return oldest;
}

static void graph_launch(struct cuda_state *state, cudaGraphExec_t exec)
{
    cuda_check(cudaGraphLaunch(exec, state->stream), "launching a graph");
}

/* NULL: something was not to be recorded, or the device has no room for the record; nothing of it has run. */
static cudaGraphExec_t record_end(struct cuda_state *state)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;

    state->is_recording = false;
    if (cudaStreamEndCapture(state->stream, &graph) == cudaSuccess &&
        cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) {
        exec = NULL;
        state->graphs->is_full = true;
    }
    if (exec && state->is_spoilt) {
        cuda_check(cudaGraphExecDestroy(exec), "giving a graph back");
        exec = NULL;
    }
    cudaGetLastError(); /* forgets why */
    if (graph)
        cuda_check(cudaGraphDestroy(graph), "recording a graph");
    return exec;
}

/* What was recorded up to here runs, and what follows is launched one by one. */
static void graphs_break(struct cuda_state *state)
{
    cudaGraphExec_t exec;

    if (!state->is_recording)
        return;
    exec = record_end(state);
    if (!exec)
        die("cuda: what was recorded as a graph cannot be launched: leave ATTUNE_CUDA_GRAPHS out");
    graph_launch(state, exec);
    cuda_check(cudaGraphExecDestroy(exec), "giving a graph back");
    state->graphs->counts.broken++;
}

/* False: the work has not been done. */
static bool graph_record(struct cuda_state *state, struct graph *graph, void (*work)(void *), void *context)
{
    struct graph_set *set = state->graphs;

    cuda_check(cudaStreamBeginCapture(state->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    state->is_recording = true;
    state->is_spoilt = false;
    work(context);
    graph->is_refused = !state->is_recording;
    if (graph->is_refused)
        return true;
    graph->exec = record_end(state);
    graph->is_refused = !graph->exec;
    if (!graph->exec)
        return false;
    graph_launch(state, graph->exec);
    set->counts.recorded++;
    set->counts.kept++;
    return true;
}

static void graphs_run(struct queue *queue, const struct graph_key *key, void (*work)(void *), void *context)
{
    struct cuda_state *state = cuda_state_of(queue);
    struct graph_set *set = state->graphs;
    struct graph *graph = graph_find(set, key);
    bool may_record = graph->is_known && !graph->is_refused && !set->is_full && !state->is_checked;

    ASSERT(!state->is_recording);
    if (graph->exec) {
        graph_launch(state, graph->exec);
        set->counts.replayed++;
        return;
    }
    graph->is_known = true;
    if (may_record && graph_record(state, graph, work, context))
        return;
    work(context);
    set->counts.plain++;
}

static struct graph_counts graphs_counts(const struct queue *queue)
{
    return ((const struct cuda_state *)queue->state)->graphs->counts;
}

static const struct graphs cuda_graphs = {graphs_run, graphs_counts};
