/* hub/fetch.h - the weights that one job waits for, as the process that fetches them sees it.
 *
 * `attune fetch` reads one JSON document from standard input (its token comes that way alone), downloads a repository
 * and, when that is an adapter, its base, and writes JSON Lines to standard output, a socket:
 *
 *     {"plan": {"repo", "commit", "files", "bytes", "present_bytes"}}      before bytes of a repository come
 *     {"progress": {"repo", "bytes", "total_bytes"}}                       about twice a second
 *     {"model": {"path", "adapter_path"}}                                  folders; adapter_path null: a model alone
 *     {"end": "ok"}                        or "retry", "failed" with "code" (base/err.h) and "message"
 *
 * After a plan it waits until one byte comes from there: without it, nothing of that size is fetched. A disk without
 * room for the plan is "failed"; one that fills up later gets unfinished files back, and "retry" is said.
 *
 * The document: endpoint, origins (http/outgoing.h), is_offline, cache (of all), own_cache (of the project), models_dir
 * (null: none), repo, revision, base (of an adapter; null: what it says), base_path (its folder when it is here), token
 * (null: none). What is public goes to the cache of all; the token is used when the Hub asks for one, and what it
 * opened goes to the project's own, where nobody else finds it. */
#pragma once

#include "base/err.h"

/* The whole of it. False when even the document could not be read. */
bool fetch_run(int in_fd, int talk_fd, struct err *err);
