#!/usr/bin/env bash
# kafka.sh - a real Apache Kafka on this machine, for tests and for looking at.
#
#   kafka.sh start                         broker on 127.0.0.1:9092, in the background
#   kafka.sh topic --create --topic test   Kafka's own tools, against that broker
#   kafka.sh console-producer --topic test
#   kafka.sh groups --describe --group mygroup
#   kafka.sh stop
#
# All commands take --port N (9092). Further:
#
#   fetch     only brings what the others need into target/; fetched once
#   start     [--dir D]              data, log and pid of this broker (run/)
#             [--controller-port N]  (port + 1)
#             [--foreground]         stay; prints "ready HOST:PORT", ends with a signal
#             [--until-eof]          as --foreground, and ends when stdin does, so that
#                                    it cannot outlive the process at the other end
#   stop      [--dir D]              ends the broker and waits for it; data stay
#   topic, console-producer, groups  the rest of the line goes to the tool
#
# Java 17 or later runs it. Without Java it is docker compose where docker
# answers, else Java and Maven are installed where we are root and have apt.
#
# Exit code 3 says that no Kafka can be had on this machine; 1 any other failure.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { echo "kafka.sh: $*" >&2; }
die() { say "$*"; exit 1; }
unavailable() { say "not available: $*"; exit 3; }

usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
  exit "${1:-0}"
}

# have_java is true for a Java that runs current Kafka.
have_java() {
  local v
  v=$(java -version 2>&1) || return 1 # also what macOS calls java when there is none
  [[ $v =~ version\ \"([0-9]+) ]] && ((BASH_REMATCH[1] >= 17))
}

have_docker() { docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; }

# how sets $how to java or docker, or ends with 3.
how=
how() {
  [[ -z $how ]] || return 0
  if have_java; then how=java
  elif have_docker; then how=docker
  elif install openjdk && have_java; then how=java
  else unavailable "needs Java 17 or later, or docker"
  fi
}

# install openjdk|maven, by apt as root.
install() {
  local pkg=$1
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
  [[ $pkg == openjdk ]] && pkg=default-jre-headless
  say "installing $pkg"
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$pkg"; } >&2
}

# locked COMMAND... runs it while no other kafka.sh does: test packages run at
# the same time, and the first of them fetches.
locked() {
  mkdir -p "$here/target"
  if command -v flock >/dev/null; then
    (flock 9; "$@") 9>"$here/target/.lock"
  else
    "$@"
  fi
}

version() { sed -n "s:.*<$1>\(.*\)</$1>.*:\1:p" "$here/pom.xml"; }

# jars PROFILE: the directory of the profile's jars. It is named by the
# versions in it, so that a new pom is a new directory.
jars() {
  case $1 in
    broker) echo "$here/target/broker-$(version kafka.version)" ;;
    tools) echo "$here/target/tools-$(version kafka.tools.version)" ;;
  esac
}

fetch_one() {
  local dir
  dir=$(jars "$1")
  [[ ! -d $dir ]] || return 0
  command -v mvn >/dev/null || install maven || unavailable "needs Maven to fetch Kafka"
  say "fetching $(basename "$dir")"
  rm -rf "$dir.part"
  mvn -B -q -Dstyle.color=never -f "$here/pom.xml" -P "$1" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$dir.part" >&2 ||
    unavailable "Maven could not fetch Kafka"
  mv "$dir.part" "$dir" # in one step: what exists is whole
}

fetch() {
  how
  if [[ $how == docker ]]; then
    compose pull -q >&2 || unavailable "docker could not fetch Kafka"
    return
  fi
  locked fetch_one broker
  locked fetch_one tools
}

compose() {
  KAFKA_PORT=$port KAFKA_CONTROLLER_PORT=$controller_port docker compose -f "$here/compose.yml" "$@"
}

# java_in PROFILE LOGLEVEL CLASS ARGS... becomes that Java program.
java_in() {
  local cp level=$2
  cp=$(jars "$1")
  shift 2
  exec java -Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
    -Dlog4j2.configurationFile="$here/log4j2.properties" -Dkafka.log.level="$level" \
    -cp "$cp/*" "$@"
}

tool() {
  local class=$1 script=$2
  shift 2
  how
  if [[ $how == docker ]]; then
    compose exec -T kafka "/opt/kafka/bin/$script" --bootstrap-server "127.0.0.1:$port" "$@"
    return
  fi
  locked fetch_one tools
  java_in tools warn "$class" --bootstrap-server "127.0.0.1:$port" "$@"
}

# alive PID is true while the process exists and is a broker of ours.
alive() { kill -0 "$1" 2>/dev/null; }

start_java() {
  locked fetch_one broker
  mkdir -p "$dir"
  if [[ -f $dir/pid ]] && alive "$(cat "$dir/pid")"; then
    die "a broker already runs in $dir, pid $(cat "$dir/pid")"
  fi
  {
    cat "$here/server.properties"
    echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port"
    echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
    echo "controller.quorum.bootstrap.servers=127.0.0.1:$controller_port"
    echo "log.dirs=$dir/data"
  } >"$dir/server.properties"
  if [[ ! -f $dir/data/meta.properties ]]; then
    (java_in broker warn kafka.tools.StorageTool format --standalone \
      --cluster-id "$(head -c 16 /dev/urandom | base64 | tr '+/' 'AB' | cut -c1-22)" \
      --config "$dir/server.properties") >"$dir/format.log" 2>&1 ||
      { cat "$dir/format.log" >&2; die "cannot format $dir/data"; }
  fi

  : >"$dir/server.log"
  (java_in broker info kafka.Kafka "$dir/server.properties") </dev/null >"$dir/server.log" 2>&1 &
  local pid=$!
  echo "$pid" >"$dir/pid"
  # Before the wait for readiness: a caller that gives up meanwhile must not
  # leave a broker behind.
  if [[ $foreground ]]; then
    trap 'kill "$pid" 2>/dev/null || true' TERM INT HUP
    if [[ $until_eof ]]; then
      exec 3<&0
      (cat <&3 >/dev/null; kill "$pid") >/dev/null 2>&1 &
    fi
    exec 3<&- 0</dev/null
  fi

  # The port opens before the broker takes requests; the log says when it does.
  local i
  for ((i = 0; ; i++)); do
    grep -q 'Kafka Server started' "$dir/server.log" && break
    if ! alive "$pid" || ((i == 1200)); then
      tail -n 30 "$dir/server.log" >&2
      kill -9 "$pid" 2>/dev/null || true
      rm -f "$dir/pid"
      die "the broker did not start; see $dir/server.log"
    fi
    sleep 0.1
  done

  echo "ready 127.0.0.1:$port"
  [[ $foreground ]] || { disown "$pid"; say "running, pid $pid, log $dir/server.log"; return 0; }
  # A signal ends wait early, while the broker still writes out its files.
  while alive "$pid"; do wait "$pid" || true; done
  rm -f "$dir/pid"
}

start_docker() {
  compose up -d --wait >&2 || die "docker compose could not start Kafka"
  echo "ready 127.0.0.1:$port"
  [[ $foreground ]] || return 0
  trap 'compose stop >&2; exit 0' TERM INT HUP
  if [[ $until_eof ]]; then
    while read -r _; do :; done
    compose stop >&2
  else
    while :; do sleep 1; done
  fi
}

stop() {
  how
  if [[ $how == docker ]]; then
    compose stop >&2
    return
  fi
  local pid i
  [[ -f $dir/pid ]] || { say "no broker runs in $dir"; return 0; }
  pid=$(cat "$dir/pid")
  kill "$pid" 2>/dev/null || true
  for ((i = 0; i < 300; i++)); do
    alive "$pid" || { rm -f "$dir/pid"; return 0; }
    sleep 0.1
  done
  say "pid $pid does not end; killing it"
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$dir/pid"
}

command=${1:-help}
shift || true
port=9092 controller_port='' dir=$here/run foreground='' until_eof='' rest=()
while (($#)); do
  case $1 in
    --port) port=${2:?--port needs a number}; shift 2 ;;
    --controller-port) controller_port=${2:?--controller-port needs a number}; shift 2 ;;
    --dir) mkdir -p "${2:?--dir needs a directory}"; dir=$(cd "$2" && pwd); shift 2 ;;
    --foreground) foreground=1; shift ;;
    --until-eof) foreground=1 until_eof=1; shift ;;
    *) rest+=("$1"); shift ;;
  esac
done
controller_port=${controller_port:-$((port + 1))}

case $command in
  fetch) fetch ;;
  start) how; "start_$how" ;;
  stop) stop ;;
  topic) tool org.apache.kafka.tools.TopicCommand kafka-topics.sh ${rest[@]+"${rest[@]}"} ;;
  console-producer) tool org.apache.kafka.tools.ConsoleProducer kafka-console-producer.sh ${rest[@]+"${rest[@]}"} ;;
  groups) tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand kafka-consumer-groups.sh ${rest[@]+"${rest[@]}"} ;;
  help | -h | --help) usage ;;
  *) say "unknown command $command"; usage 2 >&2 ;;
esac
