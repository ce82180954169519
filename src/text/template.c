#include "text/template.h"
#include "text/jinja_eval.h"

#include <string.h>

struct template
{
    struct jinja_tree tree;
};

struct template *template_parse(struct arena *arena, struct str source, struct err *err)
{
    struct template *template = arena_new(arena, struct template);

    if (source.len > TEMPLATE_SOURCE_BYTES_MAX) {
        err_set(err, ERR_LIMIT, "the chat template has %zu bytes, more than %zu", source.len,
                TEMPLATE_SOURCE_BYTES_MAX);
        return NULL;
    }
    if (!utf8_is_valid(source)) {
        err_set(err, ERR_INPUT, "the chat template is not valid UTF-8");
        return NULL;
    }
    return jinja_parse(arena, source, &template->tree, err) ? template : NULL;
}

bool template_has_generation(const struct template *template)
{
    return template->tree.has_generation;
}

static struct template_limits limits_or_defaults(struct template_limits limits)
{
    if (!limits.steps)
        limits.steps = 2000000;
    if (!limits.call_depth)
        limits.call_depth = 32;
    if (!limits.range_items)
        limits.range_items = 10000;
    if (!limits.output_bytes)
        limits.output_bytes = (size_t)4 << 20;
    if (!limits.memory_bytes)
        limits.memory_bytes = (size_t)64 << 20;
    return limits;
}

/* The caller's variables are the outermost scope: they hide the globals, and a template's own sets hide them. */
static bool define_variables(struct run *run, const struct json *variables)
{
    struct value value;

    if (!scope_push(run))
        return false;
    if (variables && variables->type != JSON_OBJECT)
        return run_fail(run, "the variables are %s, not an object", json_type_name(variables));
    json_each(variable, variables)
        if (!value_from_json(run, variable, &value) || !scope_set(run, variable->key, value))
            return false;
    return scope_push(run) != NULL;
}

bool template_render(const struct template *template, const struct json *variables,
                     const struct template_options *options, struct strbuf *out, struct template_spans *spans,
                     struct arena *arena, struct err *err)
{
    struct builder main = {0};
    struct run run = {.arena = arena, .out = &main, .main = &main, .err = err};

    if (options) {
        run.now = options->now;
        run.limits = options->limits;
    }
    run.limits = limits_or_defaults(run.limits);
    if (!define_variables(&run, variables) || exec_body(&run, template->tree.body) == FLOW_ERROR)
        return false;
    strbuf_add_str(out, builder_view(&main));
    if (spans)
        *spans = (struct template_spans){run.spans, run.span_count};
    return true;
}
