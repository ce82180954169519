/* Places in the queue: the order in which store_queue_peek would give the waiting jobs, if jobs at work end in the
 * order in which they began. It is played through once and kept until the queue changes, so that asking for a place
 * costs no query. */
#include "store/queue.h"
#include "store/store_int.h"

#include <stdlib.h>
#include <string.h>

struct waiting {
    char id[STORE_ID_BYTES];
    int64_t number, priority, place;
    bool is_for_gpu;
    struct waiting *next; /* of the same project */
};

struct round_project {
    int64_t rowid, running_max, last_turn, active;
    struct waiting *first, **last; /* in the project's own order */
};

struct queue_places {
    bool is_fresh;
    struct arena arena;      /* of what follows; goes with the next reading */
    struct waiting *waiting; /* by id once the places are known */
    struct round_project *projects;
    size_t waiting_count, project_count;
    struct round_project **at_work; /* one entry a job: those at the end began last */
    size_t ended, begun;
    int64_t turn;
};

void queue_places_changed(struct store *store)
{
    if (store->places)
        store->places->is_fresh = false;
}

void queue_places_free(struct store *store)
{
    if (store->places)
        arena_deinit(&store->places->arena);
    free(store->places);
    store->places = NULL;
}

static int64_t count_of(struct store *store, const char *sql, struct err *err)
{
    struct query query = query_open(store, sql);
    int64_t count = query_step(&query) ? query_get_integer(&query, 0) : 0;

    return query_close(&query, err) ? count : -1;
}

static bool read_projects(struct store *store, struct queue_places *q, struct err *err)
{
    int64_t count = count_of(store, "SELECT COUNT(*) FROM projects", err);
    struct query query;

    if (count < 0)
        return false;
    q->projects = arena_new_array(&q->arena, struct round_project, (size_t)count);
    query = query_open(store, "SELECT rowid, running_jobs_max, last_turn FROM projects ORDER BY rowid");
    while (q->project_count < (size_t)count && query_step(&query)) {
        struct round_project *p = &q->projects[q->project_count++];

        *p = (struct round_project){.rowid = query_get_integer(&query, 0),
                                    .running_max = query_get_integer(&query, 1),
                                    .last_turn = query_get_integer(&query, 2)};
        p->last = &p->first;
        q->turn = p->last_turn > q->turn ? p->last_turn : q->turn;
    }
    return query_close(&query, err);
}

static struct round_project *project_of(struct queue_places *q, int64_t rowid)
{
    size_t low = 0, high = q->project_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (q->projects[middle].rowid < rowid)
            low = middle + 1;
        else
            high = middle;
    }
    ASSERT(low < q->project_count && q->projects[low].rowid == rowid);
    return &q->projects[low];
}

/* at_work has room for every job, those that wait included: each enters it once. */
static bool read_at_work(struct store *store, struct queue_places *q, struct err *err)
{
    int64_t count =
        count_of(store, "SELECT COUNT(*) FROM jobs WHERE state IN ('starting', 'running', 'cancelling')", err);
    struct query query;

    if (count < 0)
        return false;
    q->at_work = arena_new_array(&q->arena, struct round_project *, (size_t)count + q->waiting_count + 1);
    query = query_open(store, "SELECT p.rowid FROM jobs j JOIN projects p ON p.organization_id = j.organization_id AND "
                              "p.id = j.project_id WHERE j.state IN ('starting', 'running', 'cancelling') "
                              "ORDER BY j.turn, j.number");
    while (q->begun < (size_t)count && query_step(&query)) {
        struct round_project *p = project_of(q, query_get_integer(&query, 0));

        p->active++;
        q->at_work[q->begun++] = p;
    }
    return query_close(&query, err);
}

static bool read_waiting(struct store *store, struct queue_places *q, struct err *err)
{
    int64_t count = count_of(
        store, "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND wanted = 'run' AND base_json IS NULL", err);
    struct query query;

    if (count < 0)
        return false;
    q->waiting = arena_new_array(&q->arena, struct waiting, (size_t)count + 1);
    query = query_open(
        store,
        "SELECT j.number, j.id, j.priority, p.rowid, COALESCE(j.device, 'cpu') <> 'cpu' FROM jobs j JOIN projects p ON "
        "p.organization_id = j.organization_id AND p.id = j.project_id WHERE j.state = 'queued' "
        "AND j.wanted = 'run' AND j.base_json IS NULL ORDER BY j.priority DESC, j.number");
    while (q->waiting_count < (size_t)count && query_step(&query)) {
        struct waiting *w = &q->waiting[q->waiting_count++];
        struct round_project *p = project_of(q, query_get_integer(&query, 3));

        *w = (struct waiting){.number = query_get_integer(&query, 0), .priority = query_get_integer(&query, 2),
                              .is_for_gpu = query_get_integer(&query, 4) != 0};
        strncpy(w->id, (const char *)sqlite3_column_text(query.stmt, 1), sizeof w->id - 1);
        *p->last = w;
        p->last = &w->next;
    }
    return query_close(&query, err);
}

/* The rule of store_queue_peek. */
static bool goes_before(const struct round_project *a, const struct round_project *b)
{
    if (a->active != b->active)
        return a->active < b->active;
    if (a->last_turn != b->last_turn)
        return a->last_turn < b->last_turn;
    if (a->first->priority != b->first->priority)
        return a->first->priority > b->first->priority;
    return a->first->number < b->first->number;
}

static struct round_project *next_project(struct queue_places *q)
{
    struct round_project *best = NULL;

    for (size_t i = 0; i < q->project_count; i++) {
        struct round_project *p = &q->projects[i];

        if (p->first && (p->running_max == 0 || p->active < p->running_max) && (!best || goes_before(p, best)))
            best = p;
    }
    return best;
}

/* As many jobs stay at work as there are now: before each begins, the oldest ends, and more of them while the others
 * are at their limits. Those for GPUs and those for the processor do not wait for each other: their places are counted
 * apart. */
static void play(struct queue_places *q)
{
    size_t slots = q->begun > 1 ? q->begun : 1;
    int64_t places[2] = {0, 0};

    for (size_t left = q->waiting_count; left > 0;) {
        struct round_project *p = q->begun - q->ended < slots ? next_project(q) : NULL;

        if (!p) {
            ASSERT(q->ended < q->begun);
            q->at_work[q->ended++]->active--;
            continue;
        }
        p->first->place = ++places[p->first->is_for_gpu];
        left--;
        p->first = p->first->next;
        p->active++;
        p->last_turn = ++q->turn;
        q->at_work[q->begun++] = p;
    }
}

static int by_id(const void *a, const void *b)
{
    return strcmp(((const struct waiting *)a)->id, ((const struct waiting *)b)->id);
}

static bool read_again(struct store *store, struct err *err)
{
    struct queue_places *q = store->places ? store->places : mem_alloc_zero(1, sizeof *q);

    arena_deinit(&q->arena);
    *q = (struct queue_places){0};
    store->places = q;
    if (!read_projects(store, q, err) || !read_waiting(store, q, err) || !read_at_work(store, q, err))
        return false;
    play(q);
    qsort(q->waiting, q->waiting_count, sizeof *q->waiting, by_id);
    q->is_fresh = true;
    return true;
}

bool store_queue_place(struct store *store, const struct store_job *job, int64_t *place, struct err *err)
{
    struct waiting key = {0};
    const struct waiting *found;

    *place = 0;
    if (job->state != JOB_STATE_queued || job->wanted != JOB_WANT_run)
        return true;
    if ((!store->places || !store->places->is_fresh) && !read_again(store, err))
        return false;
    strncpy(key.id, job->id, sizeof key.id - 1);
    found = bsearch(&key, store->places->waiting, store->places->waiting_count, sizeof key, by_id);
    *place = found ? found->place : 0;
    return true;
}
