/* api/metrics.h - what happens here, for GET /metrics: Prometheus' text format, version 0.0.4.
 *
 * Requests are counted in this process and begin with it; jobs, tokens and events are read from the store at each
 * request. Routes are labelled by their patterns, so that no id becomes a label. */
#pragma once

#include "base/str.h"
#include "http/server.h"

struct metrics;

struct metrics *metrics_new(void);
void metrics_free(struct metrics *metrics); /* NULL is fine */

/* One request is over. route NULL: none was found, or the HTTP layer refused it. route lives as long as the program. */
void metrics_note_request(struct metrics *metrics, const char *route, enum http_method method,
                          const struct http_outcome *outcome);
/* A 429 or 503 and why; code lives as long as the program. */
void metrics_note_refusal(struct metrics *metrics, int status, const char *code);
