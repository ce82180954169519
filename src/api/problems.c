#include "api/problems.h"

void problems_add(struct problems *problems, const char *type, const char *outer, const char *inner,
                  const char *innermost, const char *format, ...)
{
    struct problem *problem = arena_new(problems->arena, struct problem);
    va_list args;

    va_start(args, format);
    problem->message = arena_vprintf(problems->arena, format, args);
    va_end(args);
    problem->type = type;
    problem->place[0] = outer;
    problem->place[1] = outer ? inner : NULL;
    problem->place[2] = outer && inner ? innermost : NULL;
    if (problems->last)
        problems->last->next = problem;
    else
        problems->first = problem;
    problems->last = problem;
    problems->count++;
}

const char *problems_param(const struct problems *problems)
{
    const struct problem *p = problems->first;

    if (!p || !p->place[0])
        return NULL;
    if (!p->place[1])
        return p->place[0];
    if (!p->place[2])
        return arena_printf(problems->arena, "%s.%s", p->place[0], p->place[1]);
    return arena_printf(problems->arena, "%s.%s.%s", p->place[0], p->place[1], p->place[2]);
}

static void write_detail(struct json_writer *w, const struct problem *problem)
{
    json_write_begin_object(w);
    json_write_key(w, "loc");
    json_write_begin_array(w);
    json_write_text(w, "body");
    for (int i = 0; problem->place[i]; i++)
        json_write_text(w, problem->place[i]);
    json_write_end_array(w);
    json_put_text(w, "msg", problem->message);
    json_put_text(w, "type", problem->type);
    json_write_end_object(w);
}

void problems_write(const struct problems *problems, struct strbuf *out)
{
    struct json_writer w = {.buf = out};

    json_write_begin_object(&w);
    json_write_key(&w, "error");
    json_write_begin_object(&w);
    json_put_text(&w, "message", problems->first->message);
    json_put_text(&w, "type", "invalid_request_error");
    json_put_text(&w, "param", problems_param(problems));
    json_put_text(&w, "code", problems->first->type);
    json_write_end_object(&w);
    json_write_key(&w, "detail");
    json_write_begin_array(&w);
    for (const struct problem *problem = problems->first; problem; problem = problem->next)
        write_detail(&w, problem);
    json_write_end_array(&w);
    json_write_end_object(&w);
}
