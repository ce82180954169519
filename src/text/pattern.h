/* text/pattern.h - a pattern of tokenizer.json: a literal string or a regular expression.
 *
 * Regular expressions without a matcher of their own run in PCRE2 (UTF, Unicode properties) under limits on steps,
 * depth and memory, without JIT, so a hostile pattern ends in an error instead of running on. */
#pragma once

#include "base/err.h"
#include "base/json.h"

struct pattern;

/* {"String": "…"} or {"Regex": "…"}; `owner` names the component in messages. */
struct pattern *pattern_parse(const struct json *json, const char *owner, struct err *err);
struct pattern *pattern_regex(struct str regex, const char *owner, struct err *err);
void pattern_free(struct pattern *pattern);

/* The first match at or after `from` in valid UTF-8 that is not empty. *start = *end = text.len when there is
 * none. match_data is the caller's: one per thread, from pattern_match_data. False when a limit is passed. */
bool pattern_find(const struct pattern *pattern, void *match_data, struct str text, size_t from, size_t *start,
                  size_t *end, struct err *err);
void *pattern_match_data(void);
void pattern_match_data_free(void *match_data);
