/* What projects used: the organisation's pages of daily buckets, as OpenAI's usage API has them, and the count of what
 * models answer. Jobs and files are counted by the store. */
#include "api/api_int.h"
#include "base/log.h"
#include "os/clock.h"
#include "store/usage.h"

#include <stdlib.h>
#include <string.h>

enum { DAY_S = 86400, DAYS_STANDARD = 7, DAYS_MAX = 31, WRITE_AFTER_MS = 5000 };

/* --- answers of models: gathered for some seconds, so that chats do not wait for the disk --- */

struct usage_entry {
    struct usage_entry *next;
    struct tenant tenant;
    int64_t requests, input_tokens, output_tokens;
};

struct usage_book {
    const struct api_config *config;
    struct http_timer *timer;
    struct usage_entry *first;
};

/* What the store refuses stays for the next time. */
static void write_entries(struct usage_book *book)
{
    while (book->first) {
        struct usage_entry *entry = book->first;
        struct err err = {0};

        if (!store_usage_add_requests(book->config->store, &entry->tenant, entry->requests, entry->input_tokens,
                                      entry->output_tokens, &err)) {
            log_line("attune serve: cannot count what models answered: %s", err.text);
            return;
        }
        book->first = entry->next;
        free(entry);
    }
}

static void on_due(void *context)
{
    struct usage_book *book = context;

    write_entries(book);
    if (book->first)
        http_timer_set(book->timer, http_loop_now_ms(book->config->loop) + WRITE_AFTER_MS);
}

struct usage_book *usage_book_new(const struct api_config *config)
{
    struct usage_book *book = mem_alloc_zero(1, sizeof *book);

    book->config = config;
    book->timer = http_loop_add_timer(config->loop, INT64_MAX, on_due, book);
    return book;
}

void usage_book_free(struct usage_book *book)
{
    if (!book)
        return;
    write_entries(book);
    for (struct usage_entry *entry = book->first, *next; entry; entry = next) {
        next = entry->next;
        free(entry);
    }
    http_timer_remove(book->timer);
    free(book);
}

void usage_book_add(struct usage_book *book, const struct tenant *tenant, int64_t input_tokens, int64_t output_tokens)
{
    struct usage_entry *entry = book->first;

    if (!entry)
        http_timer_set(book->timer, http_loop_now_ms(book->config->loop) + WRITE_AFTER_MS);
    while (entry && (strcmp(entry->tenant.project_id, tenant->project_id) != 0 ||
                     strcmp(entry->tenant.organization_id, tenant->organization_id) != 0))
        entry = entry->next;
    if (!entry) {
        entry = mem_alloc_zero(1, sizeof *entry);
        entry->tenant = *tenant;
        entry->next = book->first;
        book->first = entry;
    }
    entry->requests++;
    entry->input_tokens += input_tokens;
    entry->output_tokens += output_tokens;
}

/* --- what a request asks for --- */

struct usage_query {
    int64_t first_day, end_day; /* of this page */
    bool has_more, by_project;
};

static int64_t read_integer(struct call *call, const char *name, int64_t standard, int64_t min, int64_t max,
                            struct problems *problems)
{
    int64_t value = standard;
    struct str text;

    if (!url_query_get(&call->query, name, &text) || text.len == 0)
        return standard;
    if (str_to_i64(text, &value) && value >= min && value <= max)
        return value;
    problems_add(problems, "value_error", name, NULL, NULL, "%s: must be an integer from %lld to %lld", name,
                 (long long)min, (long long)max);
    return standard;
}

static bool read_query(struct call *call, struct usage_query *usage)
{
    struct problems problems = {.arena = call->arena};
    const int64_t now = clock_unix_ms() / 1000, latest = 253402300799; /* the end of the year 9999 */
    struct str text;
    int64_t start, end, limit, last_day;

    if (!url_query_get(&call->query, "start_time", &text) || text.len == 0)
        problems_add(&problems, "missing", "start_time", NULL, NULL,
                     "start_time: a required parameter, in Unix seconds");
    start = read_integer(call, "start_time", 0, 0, latest, &problems);
    end = read_integer(call, "end_time", now + 1, 0, latest, &problems);
    limit = read_integer(call, "limit", DAYS_STANDARD, 1, DAYS_MAX, &problems);
    start = read_integer(call, "page", start, 0, latest, &problems);
    if (url_query_get(&call->query, "bucket_width", &text) && text.len && !str_is(text, "1d"))
        problems_add(&problems, "value_error", "bucket_width", NULL, NULL,
                     "bucket_width: usage is kept by the day: 1d");
    for (size_t i = 0; i < call->query.count; i++) {
        const struct url_pair *pair = &call->query.pair[i];
        if (!url_is_array_item(pair, "group_by") || pair->value.len == 0)
            continue;
        usage->by_project = str_is(pair->value, "project_id");
        if (!usage->by_project)
            problems_add(&problems, "value_error", "group_by", NULL, NULL, "group_by: usage is kept by project_id");
    }
    last_day = ((end < now + 1 ? end : now + 1) + DAY_S - 1) / DAY_S;
    usage->first_day = start / DAY_S;
    usage->has_more = usage->first_day + limit < last_day;
    usage->end_day = usage->has_more ? usage->first_day + limit : last_day;
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

/* Without project_ids all of them count. */
static bool is_wanted(const struct call *call, const char *project_id)
{
    bool is_named = false, is_any_named = false;

    for (size_t i = 0; i < call->query.count; i++) {
        const struct url_pair *pair = &call->query.pair[i];
        if (!url_is_array_item(pair, "project_ids") || pair->value.len == 0)
            continue;
        is_any_named = true;
        is_named |= str_is(pair->value, project_id);
    }
    return is_named || !is_any_named;
}

/* --- results: one function for each kind --- */

typedef bool write_result(struct json_writer *w, const struct store_usage_day *sum);

static void begin_result(struct json_writer *w, const char *object, const char *project_id)
{
    json_write_begin_object(w);
    json_put_text(w, "object", object);
    json_put_text(w, "project_id", project_id);
}

static bool write_completions(struct json_writer *w, const struct store_usage_day *sum)
{
    if (!sum->counts.model_requests)
        return false;
    begin_result(w, "organization.usage.completions.result", sum->project_id);
    json_put_integer(w, "input_tokens", sum->counts.input_tokens);
    json_put_integer(w, "output_tokens", sum->counts.output_tokens);
    json_put_integer(w, "num_model_requests", sum->counts.model_requests);
    json_write_end_object(w);
    return true;
}

static bool write_fine_tuning(struct json_writer *w, const struct store_usage_day *sum)
{
    if (!sum->counts.jobs && !sum->counts.trained_steps && !sum->counts.device_ms)
        return false;
    begin_result(w, "organization.usage.fine_tuning.result", sum->project_id);
    json_put_integer(w, "jobs", sum->counts.jobs);
    json_put_integer(w, "trained_tokens", sum->counts.trained_tokens);
    json_put_integer(w, "trained_steps", sum->counts.trained_steps);
    json_put_number(w, "device_seconds", (double)sum->counts.device_ms / 1000);
    json_write_end_object(w);
    return true;
}

static bool write_storage(struct json_writer *w, const struct store_usage_day *sum)
{
    if (!sum->storage_bytes)
        return false;
    begin_result(w, "organization.usage.storage.result", sum->project_id);
    json_put_integer(w, "storage_bytes", sum->storage_bytes);
    json_write_end_object(w);
    return true;
}

static void add_day(struct store_usage_day *sum, const struct store_usage_day *day)
{
#define ADD_COUNT(name) sum->counts.name += day->counts.name;
    STORE_USAGE_COUNTS(ADD_COUNT)
#undef ADD_COUNT
    sum->storage_bytes += day->storage_bytes;
}

/* The rows of one day, from *at on. */
static void write_bucket(struct call *call, struct json_writer *w, const struct usage_query *usage, int64_t day,
                         const struct store_usage_list *days, size_t *at, write_result *write)
{
    struct store_usage_day sum = {.day = day};

    json_write_begin_object(w);
    json_put_text(w, "object", "bucket");
    json_put_integer(w, "start_time", day * DAY_S);
    json_put_integer(w, "end_time", (day + 1) * DAY_S);
    json_write_key(w, "results");
    json_write_begin_array(w);
    for (; *at < days->count && days->at[*at].day == day; ++*at) {
        const struct store_usage_day *row = &days->at[*at];
        if (!is_wanted(call, row->project_id))
            continue;
        if (usage->by_project)
            write(w, row);
        else
            add_day(&sum, row);
    }
    if (!usage->by_project)
        write(w, &sum);
    json_write_end_array(w);
    json_write_end_object(w);
}

static void answer_usage(struct call *call, write_result *write)
{
    struct store_usage_list days;
    struct usage_query usage = {0};
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    struct err err = {0};
    size_t at = 0;

    if (!read_query(call, &usage))
        return;
    if (!store_usage_days(call->api->config.store, &call->tenant, usage.first_day, usage.end_day, call->arena, &days,
                          &err)) {
        answer_err(call, &err, NULL);
        return;
    }
    json_write_begin_object(&w);
    json_put_text(&w, "object", "page");
    json_write_key(&w, "data");
    json_write_begin_array(&w);
    for (int64_t day = usage.first_day; day < usage.end_day; day++)
        write_bucket(call, &w, &usage, day, &days, &at, write);
    json_write_end_array(&w);
    json_put_bool(&w, "has_more", usage.has_more);
    json_put_text(&w, "next_page",
                  usage.has_more ? arena_printf(call->arena, "%lld", (long long)usage.end_day * DAY_S) : NULL);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

void usage_completions(struct call *call)
{
    answer_usage(call, write_completions);
}

void usage_fine_tuning(struct call *call)
{
    answer_usage(call, write_fine_tuning);
}

void usage_storage(struct call *call)
{
    answer_usage(call, write_storage);
}
