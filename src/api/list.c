#include "api/api_int.h"

enum { LIMIT_MAX = 10000 };

static bool read_limit(struct call *call, struct problems *problems, int standard, struct list_query *list)
{
    struct str text;
    int64_t limit = standard;

    if (url_query_get(&call->query, "limit", &text) && text.len &&
        (!str_to_i64(text, &limit) || limit < 0 || limit > LIMIT_MAX)) {
        problems_add(problems, "value_error", "limit", NULL, NULL, "limit must be an integer from 0 to %d", LIMIT_MAX);
        return false;
    }
    list->is_empty = limit == 0;
    list->page.limit = (int)limit;
    return true;
}

static bool read_order(struct call *call, struct problems *problems, bool newest_first, struct list_query *list)
{
    struct str text;

    list->page.ascending = !newest_first;
    if (!url_query_get(&call->query, "order", &text) || text.len == 0)
        return true;
    if (!str_is(text, "asc") && !str_is(text, "desc")) {
        problems_add(problems, "enum", "order", NULL, NULL, "order must be asc or desc");
        return false;
    }
    list->page.ascending = str_is(text, "asc");
    return true;
}

bool list_read(struct call *call, const struct list_limits *limits, struct list_query *list)
{
    struct problems problems = {.arena = call->arena};
    bool is_openai = call->is_openai_profile;
    struct str after;

    *list = (struct list_query){0};
    read_limit(call, &problems, is_openai ? limits->standard_openai : limits->standard, list);
    read_order(call, &problems, is_openai ? limits->newest_first_openai : limits->newest_first, list);
    if (url_query_get(&call->query, "after", &after) && after.len)
        list->page.after = str_copy(call->arena, after);
    if (problems.count)
        answer_problems(call, &problems);
    return problems.count == 0;
}

bool list_is_past_end(const struct list_query *list, const struct err *err)
{
    return list->page.after && err->code == ERR_NOT_FOUND;
}

void list_write_begin(struct json_writer *w)
{
    json_write_begin_object(w);
    json_put_text(w, "object", "list");
    json_write_key(w, "data");
    json_write_begin_array(w);
}

void list_write_end(struct json_writer *w, enum list_ids ids, const char *first, const char *last, bool has_more)
{
    json_write_end_array(w);
    if (ids != LIST_WITHOUT_IDS) {
        const char *none = ids == LIST_IDS_OR_EMPTY ? "" : NULL;
        json_put_text(w, "first_id", first ? first : none);
        json_put_text(w, "last_id", last ? last : none);
    }
    json_put_bool(w, "has_more", has_more);
    json_write_end_object(w);
}
