// Loads statements into the real D1 engine and writes its dumps: `node engine.mjs JOB.json`, answer as JSON on stdout.
// JOB: {"persist": folder, "databases": {name: {"statements": [sql], "queries": [sql or [sql, parameter, …]],
//       "measured": [sql], "dumps": [{"file", "no_schema", "no_data", "tables"}]}}}
// Answer: {name: {"refused": {statement index: message}, "results": [[columns, row, …]], "metas": [meta],
//         "errors": {dump file: message}}}
import { readFileSync, writeFileSync } from "node:fs";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";

const job = JSON.parse(readFileSync(process.argv[2], "utf8"));
const names = Object.keys(job.databases);
const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    modules: true,
    script: "export default {}",
    resourcePersistencePath: job.persist,
    d1Databases: Object.fromEntries(names.map((name) => [name, name])),
  }),
);
const answer = {};
try {
  for (const name of names) {
    const { statements, queries, measured, dumps } = job.databases[name];
    const database = await miniflare.getD1Database(name);
    const refused = {};
    const errors = {};
    const results = [];
    const metas = [];
    try {
      if (statements.length) await database.batch(statements.map((statement) => database.prepare(statement)));
    } catch {
      // all or nothing, so now one by one, to learn which
      for (const [index, statement] of statements.entries()) {
        await database.prepare(statement).run().catch((error) => (refused[index] = error.message));
      }
    }
    for (const query of queries) {
      const [sql, ...parameters] = [query].flat();
      results.push(await database.prepare(sql).bind(...parameters).raw({ columnNames: true }));
    }
    for (const sql of measured) metas.push((await database.prepare(sql).run()).meta);
    for (const { file, no_schema, no_data, tables } of dumps) {
      try {
        const [dump] = await database
          .prepare("PRAGMA miniflare_d1_export(?,?,?);")
          .bind(no_schema, no_data, ...tables)
          .raw();
        writeFileSync(file, dump.join("\n"));
      } catch (error) {
        errors[file] = error.message;
      }
    }
    answer[name] = { refused, results, metas, errors };
  }
} finally {
  await miniflare.dispose();
}
process.stdout.write(JSON.stringify(answer));
