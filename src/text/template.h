/* text/template.h - chat templates: Jinja as transformers runs it, in a bounded interpreter of our own.
 *
 * A template turns messages into the one text that is tokenized (without special tokens added: the template
 * writes them itself). What is understood is the language that published chat templates use, and it prints what
 * Jinja2's immutable sandbox prints under transformers' settings: trim_blocks, lstrip_blocks, break and continue,
 * {% generation %}, tojson without HTML escapes, raise_exception, strftime_now. Undefined names print nothing;
 * an attribute of one is an error. include, import, extends, block, call, do and recursive loops are refused by
 * name.
 *
 * Nothing outside is reachable from a template and nothing in it is trusted: each node evaluated, each loop
 * turn and each stretch of text or list that a filter walks costs steps, and steps, nesting, memory and
 * output have limits. Integers that leave 64 bits are an error.
 *
 * A parsed template is read-only and may be rendered by many threads at once, each with its own arena. Every
 * error names the template's line. */
#pragma once

#include "base/err.h"
#include "base/json.h"
#include "base/str.h"

#include <stdint.h>

struct template;

/* A zero takes the default beside it. */
struct template_limits {
    uint64_t steps;       /* 2,000,000: a long conversation under the longest template we know takes a tenth */
    uint32_t call_depth;  /* 32 macro calls within each other */
    uint32_t range_items; /* 10,000 in one range() */
    size_t output_bytes;  /* 4 MiB; each single string is held to it too */
    size_t memory_bytes;  /* 64 MiB for all values made on the way */
};

struct template_options {
    int64_t now; /* seconds since 1970-01-01T00:00:00 on the clock that strftime_now shows; it has no zone */
    struct template_limits limits;
};

/* What one {% generation %} block wrote, [start, end) of the rendered text. */
struct template_span {
    size_t start, end; /* bytes */
    size_t start_codepoint, end_codepoint;
};

struct template_spans {
    struct template_span *at; /* in the arena given to template_render */
    size_t count;
};

#define TEMPLATE_SOURCE_BYTES_MAX ((size_t)256 << 10)

/* Parses; the source must outlive the template. NULL with err set on a syntax error, an unknown filter or
 * statement, or a source above TEMPLATE_SOURCE_BYTES_MAX. */
struct template *template_parse(struct arena *arena, struct str source, struct err *err);

/* Appends the rendering to `out`. variables: a JSON object (messages, tools, add_generation_prompt, bos_token, …)
 * or NULL; members that are absent are undefined. spans may be NULL. Temporary values lie in `arena`. On failure `out`
 * is as it was. ERR_LIMIT when a budget is used up, ERR_INPUT otherwise. */
bool template_render(const struct template *template, const struct json *variables,
                     const struct template_options *options, struct strbuf *out, struct template_spans *spans,
                     struct arena *arena, struct err *err);

/* Whether it holds {% generation %} anywhere. */
bool template_has_generation(const struct template *template);

/* Finds the text of a model's chat template: chat_template.jinja, additional_chat_templates/NAME.jinja, then
 * chat_template in tokenizer_config.json (a string or a list of {name, template}). With several, `tool_use` when
 * has_tools and it exists, else `default`. ERR_NOT_FOUND when the folder has none. */
bool template_find(const char *folder, bool has_tools, struct arena *arena, struct str *source, struct err *err);

/* "2024-07-26T14:30:05" (or with a space, or the date alone, or with a final Z) as template_options.now. */
bool template_time_parse(struct str text, int64_t *now);
