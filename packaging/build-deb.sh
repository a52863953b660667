#!/usr/bin/env bash
# build-deb.sh                  make the Debian package of this tree, as a release; print its path
# build-deb.sh --programs DIR   pack the programs that are in DIR as they are, quickly; for tests
# build-deb.sh --lacking        say what this machine lacks for that
#
# A release is built in a copy of the tree, with vendored crates, and from then on without network. What was
# made is kept below target/debian, and made anew when something that goes into it has changed.
set -euo pipefail
umask 022

top=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
out=$(realpath -m "${CARGO_TARGET_DIR:-$top/target}")/debian
inputs=(Cargo.toml Cargo.lock CHANGELOG.md LICENSE-APACHE LICENSE-MIT README.md docs examples packaging src units)
programs=''

die() { echo "build-deb: $*" >&2; exit 1; }

lacking() { # the packages that have to be installed
  local pair
  for pair in dh:debhelper dpkg-buildpackage:dpkg-dev pandoc:pandoc cc:gcc; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair#*:} (apt-get install it)"
  done
}

files() { # all that goes into the package, NUL after each
  find "${inputs[@]}" \( -name node_modules -o -name .venv -o -name __pycache__ \) -prune -o -type f -print0 | sort -z
}

key() { # of what is to be made
  { files | xargs -0 sha256sum; rustc --version; [ -z "$programs" ] || sha256sum "$programs"/cohort{d,ctl}; } | sha256sum
}

changelog() { dpkg-parsechangelog -l packaging/debian/changelog -S "$1"; }

vendor() { # TREE: the crates, by hard links to those of the last time
  local kept
  kept=$out/vendor-$(sha256sum <Cargo.lock | cut -c -16)
  if [ ! -e "$kept/complete" ]; then
    rm -rf "$out"/vendor-*
    cargo vendor --quiet --locked --versioned-dirs --respect-source-config "$kept" >/dev/null
    touch "$kept/complete"
  fi
  cp -al "$kept" "$1/vendor"
  mkdir "$1/.cargo"
  printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n' >"$1/.cargo/config.toml"
}

build() { # VERSION
  local work=$out/build tree=$out/build/cohortd-$1 offline=() way
  rm -rf "$work"
  mkdir -p "$tree"
  files | tar -c --null -T - --mtime="@$(changelog Timestamp)" | tar -x -C "$tree"
  cp -a "$tree/packaging/debian" "$tree/debian"
  if [ -n "$programs" ]; then
    export PROGRAMS=$programs DEB_BUILD_OPTIONS=noautodbgsym
  else
    vendor "$tree"
    for way in 'unshare --net' 'unshare --net --map-root-user'; do
      if $way true 2>/dev/null; then read -ra offline <<<"$way"; break; fi
    done
    [ ${#offline[@]} -gt 0 ] || echo "build-deb: the network can't be taken away here; cargo is told not to use it" >&2
    # debhelper has a HOME of its own
    ! command -v rustup >/dev/null || export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}
    export CARGO_TARGET_DIR=$out/cargo
  fi
  cd "$tree"
  # -d: Rust is rarely Debian's own, whose 12 has one that is too old
  "${offline[@]}" dpkg-buildpackage -b -d -nc -us -uc >"$work/log" 2>&1 ||
    { tail -n 40 "$work/log" >&2; die "failed; all of it is in $work/log"; }
  mv "$work"/*.deb "$out"
  cd "$top"
}

cd "$top"
case ${1:-} in
  '') ;;
  --programs) programs=$(realpath -e "$2") out=$out/quick ;;
  --lacking) lacking; exit ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
what=$(lacking)
[ -z "$what" ] || die "this machine lacks $what"
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9
version=$(changelog Version)
deb=$out/cohortd_${version}_$(dpkg --print-architecture).deb
grep -qx "version = \"$version\"" Cargo.toml || die "Cargo.toml has another version than packaging/debian/changelog: $version"
key=$(key)
if [ ! -e "$deb" ] || [ "$(cat "$out/.key" 2>/dev/null)" != "$key" ]; then
  rm -f "$out"/*.deb "$out/.key"
  build "$version"
  echo "$key" >"$out/.key"
fi
echo "$deb"
