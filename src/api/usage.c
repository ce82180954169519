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
    char model[];
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

        if (!store_usage_add_requests(book->config->store, &entry->tenant, entry->model, entry->requests,
                                      entry->input_tokens, entry->output_tokens, &err)) {
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

static bool entry_is(const struct usage_entry *entry, const struct tenant *tenant, const char *model)
{
    return strcmp(entry->tenant.project_id, tenant->project_id) == 0 &&
           strcmp(entry->tenant.organization_id, tenant->organization_id) == 0 && strcmp(entry->model, model) == 0;
}

void usage_book_add(struct usage_book *book, const struct tenant *tenant, const char *model, int64_t input_tokens,
                    int64_t output_tokens)
{
    struct usage_entry *entry = book->first;

    if (!entry)
        http_timer_set(book->timer, http_loop_now_ms(book->config->loop) + WRITE_AFTER_MS);
    while (entry && !entry_is(entry, tenant, model))
        entry = entry->next;
    if (!entry) {
        entry = mem_alloc_zero(1, sizeof *entry + strlen(model) + 1);
        entry->tenant = *tenant;
        memcpy(entry->model, model, strlen(model) + 1);
        entry->next = book->first;
        book->first = entry;
    }
    entry->requests++;
    entry->input_tokens += input_tokens;
    entry->output_tokens += output_tokens;
}

/* --- what a request asks for --- */

struct usage_query {
    struct store_usage_query store; /* of this page */
    bool has_more;
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

static void read_group_by(struct call *call, bool has_models, struct store_usage_query *asked,
                          struct problems *problems)
{
    for (size_t i = 0; i < call->query.count; i++) {
        const struct url_pair *pair = &call->query.pair[i];

        if (!url_is_array_item(pair, "group_by") || pair->value.len == 0)
            continue;
        if (str_is(pair->value, "project_id"))
            asked->by_project = true;
        else if (has_models && str_is(pair->value, "model"))
            asked->by_model = true;
        else
            problems_add(problems, "value_error", "group_by", NULL, NULL, "group_by: usage is kept by project_id%s",
                         has_models ? " and model" : "");
    }
}

/* The values of an array as a list; NULL when there are none. */
static const char *read_names(struct call *call, const char *name)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text};
    const char *list = NULL;

    json_write_begin_array(&w);
    for (size_t i = 0; i < call->query.count; i++)
        if (url_is_array_item(&call->query.pair[i], name) && call->query.pair[i].value.len)
            json_write_string(&w, call->query.pair[i].value);
    json_write_end_array(&w);
    if (text.len > strlen("[]"))
        list = str_copy(call->arena, strbuf_view(&text));
    strbuf_deinit(&text);
    return list;
}

static bool read_query(struct call *call, bool has_models, struct usage_query *usage)
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
    read_group_by(call, has_models, &usage->store, &problems);
    usage->store.projects_json = read_names(call, "project_ids");
    usage->store.models_json = has_models ? read_names(call, "models") : NULL;
    last_day = ((end < now + 1 ? end : now + 1) + DAY_S - 1) / DAY_S;
    usage->store.first_day = start / DAY_S;
    usage->has_more = usage->store.first_day + limit < last_day;
    usage->store.end_day = usage->has_more ? usage->store.first_day + limit : last_day;
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

/* --- results: one function for each kind --- */

typedef bool write_result(struct json_writer *w, const struct store_usage_row *row);

static void begin_result(struct json_writer *w, const char *object, const struct store_usage_row *row)
{
    json_write_begin_object(w);
    json_put_text(w, "object", object);
    json_put_text(w, "project_id", row->project_id);
}

/* What was counted before models were has none. */
static void put_model(struct json_writer *w, const struct store_usage_row *row)
{
    json_put_text(w, "model", row->model && *row->model ? row->model : NULL);
}

static bool write_completions(struct json_writer *w, const struct store_usage_row *row)
{
    if (!row->counts.model_requests)
        return false;
    begin_result(w, "organization.usage.completions.result", row);
    put_model(w, row);
    json_put_integer(w, "input_tokens", row->counts.input_tokens);
    json_put_integer(w, "output_tokens", row->counts.output_tokens);
    json_put_integer(w, "num_model_requests", row->counts.model_requests);
    json_write_end_object(w);
    return true;
}

static bool write_fine_tuning(struct json_writer *w, const struct store_usage_row *row)
{
    if (!row->counts.jobs && !row->counts.trained_steps && !row->counts.device_ms)
        return false;
    begin_result(w, "organization.usage.fine_tuning.result", row);
    put_model(w, row);
    json_put_integer(w, "jobs", row->counts.jobs);
    json_put_integer(w, "trained_tokens", row->counts.trained_tokens);
    json_put_integer(w, "trained_steps", row->counts.trained_steps);
    json_put_number(w, "device_seconds", (double)row->counts.device_ms / 1000);
    json_write_end_object(w);
    return true;
}

static bool write_storage(struct json_writer *w, const struct store_usage_row *row)
{
    if (!row->storage_bytes)
        return false;
    begin_result(w, "organization.usage.storage.result", row);
    json_put_integer(w, "storage_bytes", row->storage_bytes);
    json_write_end_object(w);
    return true;
}

/* The rows of one day, from *at on. */
static void write_bucket(struct json_writer *w, int64_t day, const struct store_usage_list *rows, size_t *at,
                         write_result *write)
{
    json_write_begin_object(w);
    json_put_text(w, "object", "bucket");
    json_put_integer(w, "start_time", day * DAY_S);
    json_put_integer(w, "end_time", (day + 1) * DAY_S);
    json_write_key(w, "results");
    json_write_begin_array(w);
    for (; *at < rows->count && rows->at[*at].day == day; ++*at)
        write(w, &rows->at[*at]);
    json_write_end_array(w);
    json_write_end_object(w);
}

static void write_page(struct call *call, const struct usage_query *usage, const struct store_usage_list *rows,
                       write_result *write)
{
    const struct store_usage_query *asked = &usage->store;
    struct strbuf body = {0};
    struct json_writer w = {.buf = &body};
    size_t at = 0;

    json_write_begin_object(&w);
    json_put_text(&w, "object", "page");
    json_write_key(&w, "data");
    json_write_begin_array(&w);
    for (int64_t day = asked->first_day; day < asked->end_day; day++)
        write_bucket(&w, day, rows, &at, write);
    json_write_end_array(&w);
    json_put_bool(&w, "has_more", usage->has_more);
    json_put_text(&w, "next_page",
                  usage->has_more ? arena_printf(call->arena, "%lld", (long long)asked->end_day * DAY_S) : NULL);
    json_write_end_object(&w);
    answer_json(call, 200, &body);
    strbuf_deinit(&body);
}

typedef bool read_rows(struct store *store, const struct tenant *tenant, const struct store_usage_query *asked,
                       struct arena *arena, struct store_usage_list *list, struct err *err);

static void answer_usage(struct call *call, read_rows *read, bool has_models, write_result *write)
{
    struct store_usage_list rows;
    struct usage_query usage = {0};
    struct err err = {0};

    if (!read_query(call, has_models, &usage))
        return;
    if (read(call->api->config.store, &call->tenant, &usage.store, call->arena, &rows, &err))
        write_page(call, &usage, &rows, write);
    else
        answer_err(call, &err, NULL);
}

void usage_completions(struct call *call)
{
    answer_usage(call, store_usage_read, true, write_completions);
}

void usage_fine_tuning(struct call *call)
{
    answer_usage(call, store_usage_read, true, write_fine_tuning);
}

void usage_storage(struct call *call)
{
    answer_usage(call, store_usage_storage, false, write_storage);
}
