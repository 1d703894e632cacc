#!/bin/sh
# Records the traces of this folder again, into the current directory: record.sh [TIMES [NAME...]].
# TIMES multiplies the work of every program (10: about ten times as many events); NAME picks traces.
# Needs harness, g++, git, python3, node, redis-server, ripgrep and sqlite3, all from Debian 12 but node.
set -eu
times=${1:-1}
[ $# -gt 0 ] && shift
out=$PWD
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

record() {
  name=$1
  shift
  harness record -o "$name.parquet" "$@"
  mv "$name.parquet" "$out/"
}

# The C++ compiler on a small program of the standard library. More work: more instances of a template.
cc1plus() {
  {
    cat <<'SOURCE'
#include <algorithm>
#include <iostream>
#include <map>
#include <string>
#include <vector>
template <int n>
int sort_words() {
  std::map<std::string, int> counts;
  for (std::string word; std::cin >> word;) counts[word] += n;
  std::vector<std::pair<int, std::string>> order;
  for (const auto& [word, count] : counts) order.emplace_back(count, word);
  std::sort(order.rbegin(), order.rend(), [](const auto& a, const auto& b) { return a < b; });
  for (const auto& [count, word] : order) std::cout << count << ' ' << word << '\n';
  return n;
}
int main() {
SOURCE
    for i in $(seq $((6 * times - 5))); do echo "  sort_words<$i>();"; done
    echo "}"
  } >words.cpp
  record cc1plus -- "$(g++ -print-prog-name=cc1plus)" -quiet -std=c++20 -O1 \
    -imultiarch "$(g++ -print-multiarch)" -D_GNU_SOURCE words.cpp -o words.s
}

# A database in memory: insert, index, aggregate, join, update, delete.
sqlite3_() {
  record sqlite3 -- sqlite3 :memory: \
    "CREATE TABLE person(id INTEGER PRIMARY KEY, name TEXT, city TEXT, born INTEGER)" \
    "CREATE INDEX by_city ON person(city, born)" \
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $((60000 * times)))
     INSERT INTO person SELECT i, printf('%x-%d', i * 2654435761 % 4294967296, i),
     printf('city %d', i * 7919 % 997), 1900 + i % 110 FROM n" \
    "SELECT city, count(*), group_concat(name) FROM person WHERE born > 1950 GROUP BY city ORDER BY 2 DESC" \
    "SELECT count(DISTINCT a.name || b.city) FROM person a JOIN person b ON a.id = b.born" \
    "UPDATE person SET name = upper(name) || city WHERE id % 3 = 0" \
    "DELETE FROM person WHERE born < 1930" >/dev/null
}

# Python without its own small-object allocator: parse, compile and dump a module as JSON.
python3_() {
  PYTHONMALLOC=malloc record python3 -- /usr/bin/python3 -c "import ast, inspect, json, textwrap
for _ in range($times):
    tree = ast.parse(inspect.getsource(textwrap))
    compile(tree, 'textwrap', 'exec')
    json.loads(json.dumps([ast.dump(node) for node in ast.walk(tree)]))"
}

repository() {
  [ -d repository ] && return
  git init -q repository
  for i in $(seq $((400 * times))); do
    cat <<COMMIT
commit refs/heads/main
committer Author <author@example.org> $((1700000000 + i)) +0000
data <<END
Change number $i
END
M 644 inline folder$((i % 7))/file$((i % 61))
data <<END
$(seq "$i" $((i + i % 300)))
END

COMMIT
  done | git -C repository fast-import --quiet
}

# The history of a repository with every change as a patch.
git_log() {
  repository
  record git-log -- git -C repository log -p --stat -M --all >/dev/null
}

# Two threads that look for deltas among the objects of the repository.
git_pack_objects() {
  repository
  record git-pack-objects -- git -C repository pack-objects --threads=2 --window=50 --all \
    --no-reuse-delta --stdout </dev/null >/dev/null
}

# Compression, key derivation and file status on the thread pool of libuv; the main thread frees.
node_() {
  record node -- node -e "const zlib = require('zlib'), crypto = require('crypto'), fs = require('fs');
const text = Buffer.from('alloc '.repeat(20000));
let left = $((800 * times));
const next = () => {
  if (left-- > 0)
    zlib.deflate(text, (error, data) =>
      crypto.scrypt('p' + left, 's', 32, { N: 64 }, () => fs.stat('.', () => zlib.inflate(data, next))));
};
for (let i = 0; i < 8; ++i) next();"
}

# A server under load: a second thread reads and parses, another one frees what was deleted.
redis_server() {
  harness record -o redis-server.parquet -- redis-server --port 7391 --save "" --appendonly no \
    --io-threads 2 --io-threads-do-reads yes --lazyfree-lazy-user-del yes >redis.log &
  recorder=$!
  until redis-cli -p 7391 ping >/dev/null 2>&1; do sleep 0.1; done
  redis-benchmark -p 7391 -n $((12000 * times)) -c 20 -P 16 -r 5000 -q \
    -t set,get,lpush,lpop,sadd,hset,zadd >/dev/null
  redis-cli -p 7391 del mylist myset myhash myzset >/dev/null
  redis-cli -p 7391 shutdown nosave
  wait "$recorder"
  mv redis-server.parquet "$out/"
}

# An index of the words of a text, with the call stack of each allocation and its lines. No path of this machine
# is in it: neither the program's own nor that of its source.
index() {
  cp "$here/sites/index.cpp" index.cpp
  g++ -std=c++20 -O2 -g -ffile-prefix-map="$work/"= -ffile-prefix-map="$work"=. index.cpp -o index
  for _ in $(seq "$times"); do cat /usr/share/common-licenses/GPL-3; done >text
  record index --sites -- ./index <text >/dev/null
}

# Four threads search the headers of the system; what the walker allocates, the searchers free.
ripgrep() {
  mkdir -p include
  for i in $(seq "$times"); do cp -r /usr/include/. "include/$i"; done
  record ripgrep -- rg --threads 4 --count --ignore-case "m[ae]m[a-z]*y|alloc(ate|ation)?" include >/dev/null
}

[ $# -gt 0 ] || set -- cc1plus sqlite3 python3 git-log git-pack-objects node redis-server ripgrep index
for name in "$@"; do
  case $name in
    cc1plus) cc1plus ;;
    sqlite3) sqlite3_ ;;
    python3) python3_ ;;
    git-log) git_log ;;
    git-pack-objects) git_pack_objects ;;
    node) node_ ;;
    redis-server) redis_server ;;
    ripgrep) ripgrep ;;
    index) index ;;
    *) echo "record.sh: no trace is named $name" >&2; exit 2 ;;
  esac
done
