#!/usr/bin/env bash
# check-deb.sh DEB   is it clean (lintian), the same when built again elsewhere, and does it leave nothing
# behind (piuparts, for root)?
set -euo pipefail
top=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
deb=$(realpath -e "$1")

echo "lintian: $deb"
lintian --no-tag-display-limit --fail-on error,warning -EvIi "$deb"

elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
echo "building it again below $elsewhere"
mkdir "$elsewhere/deeper"
git -C "$top" ls-files -z | tar -C "$top" -c --null -T - | tar -x -C "$elsewhere/deeper"
again=$(cd "$elsewhere/deeper" && env CARGO_TARGET_DIR="$elsewhere/t" TZ=Asia/Kolkata LC_ALL=POSIX packaging/build-deb.sh)
cmp "$deb" "$again"
echo "reproducible: $(sha256sum <"$deb")"

if [ "$EUID" != 0 ]; then
  echo "piuparts is for root: left out" >&2
  exit
fi
for suite in bookworm trixie; do
  base=$elsewhere/$suite.tar.gz
  # systemd leaves folders behind when it is purged; that it does is not looked at
  mmdebstrap --quiet --variant=minbase --include=systemd "$suite" "$base" ${RIG_MIRROR:+"$RIG_MIRROR"}
  # debconf makes that folder with the first package that it looks into
  piuparts --distribution "$suite" --basetgz "$base" --keep-sources-list \
    --ignore-regex '/var/cache/debconf/tmp\.ci/?' "$deb"
done
