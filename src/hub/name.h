/* hub/name.h - what a Hub's names may be. They come from requests and from answers of a Hub, and become parts of paths
 * and URLs: what is not as these say is refused before. */
#pragma once

#include "base/str.h"

/* "org/name" or "name": letters, digits, "-", "_" and ".", neither first nor last "-" or ".", without "--" and "..". */
bool hub_name_is_repo(struct str text);
/* A branch, tag, "refs/pr/1" or commit: segments of letters, digits and "-_.+", of which none begins with a dot. */
bool hub_name_is_revision(struct str text);
bool hub_name_is_commit(struct str text); /* 40 hexadecimal digits in lower case */
bool hub_name_is_sha256(struct str text); /* 64 of them */
/* A relative path of printable characters: no segment is empty, begins with a dot or holds a backslash. The few names
 * with a dot that repositories have (.gitattributes) are of no use here. */
bool hub_name_is_path(struct str text);

/* "models--org--name" */
char *hub_name_folder(struct arena *arena, const char *repo);
/* With each byte that a path of a URL does not have as %XX; slashes too unless keeps_slashes. */
char *hub_name_encode(struct arena *arena, struct str text, bool keeps_slashes);
