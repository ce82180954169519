/* The same JSON as the body of a job, of a chat and of a completion: it is taken, or every problem has a text. What is
 * taken keeps its limits, and what goes to the worker is JSON. */
#include "api/chat_request.h"
#include "api/job_request.h"

static void check_problems(const struct problems *problems, bool is_taken)
{
    struct arena arena = {0};
    struct strbuf out = {0};

    ASSERT(is_taken == (problems->count == 0));
    if (!is_taken) {
        problems_write(problems, &out);
        ASSERT(problems->first->message[0] && json_parse(&arena, strbuf_view(&out), NULL, NULL));
    }
    strbuf_deinit(&out);
    arena_deinit(&arena);
}

/* The default may lie outside: context_length 0 is the model's. */
static void check_range(double value, double standard, double min, double max)
{
    ASSERT(value == standard || (value >= min && value <= max));
}

static void read_job(struct arena *arena, const struct json *body)
{
    struct problems problems = {.arena = arena};
    struct job_request request;
    bool is_taken = job_request_read(arena, body, &request, &problems);

    check_problems(&problems, is_taken);
    ASSERT(request.warning_count <= JOB_WARNINGS_MAX);
    if (!is_taken)
        return;
    ASSERT(request.model.len > 0 && request.training_file.len > 0 && request.over_length && request.lr_scheduler_type);
#define CHECK_RANGE(name, kind, standard, min, max, help) check_range((double)request.values.name, standard, min, max);
    HYPERPARAMETERS(CHECK_RANGE)
    DPO_HYPERPARAMETERS(CHECK_RANGE)
#undef CHECK_RANGE
}

static void read_chat(struct arena *arena, const struct json *body, bool is_chat)
{
    struct problems problems = {.arena = arena};
    struct chat_fields fields;
    bool is_taken = chat_fields_read(arena, body, is_chat, &fields, &problems);

    check_problems(&problems, is_taken);
    for (int i = 0; is_taken && i < fields.prompt_count + is_chat; i++) {
        struct strbuf out = {0};
        strbuf_add_char(&out, '{');
        chat_fields_write(&fields, i, "proj", &out);
        strbuf_add_char(&out, '}');
        ASSERT(json_parse(arena, strbuf_view(&out), NULL, NULL));
        strbuf_deinit(&out);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct json *body = json_parse(&arena, (struct str){(const char *)data, size}, NULL, NULL);

    if (json_has_type(body, JSON_OBJECT)) {
        read_job(&arena, body);
        read_chat(&arena, body, true);
        read_chat(&arena, body, false);
    }
    arena_deinit(&arena);
    return 0;
}
