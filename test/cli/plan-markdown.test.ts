import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Group, Plan } from '../../src/cli/plan-lines.ts';
import { planMarkdown } from '../../src/cli/plan-markdown.ts';

function planOf(groups: Group[], failures: Plan['failures'] = []): Plan {
  const count = (list: { count: number }[]) => list.reduce((sum, each) => sum + each.count, 0);
  return {
    plan: { environment: 'production', code_version: 'ab'.repeat(32), commit: 'cd'.repeat(20), trial: false },
    groups,
    failures,
    not_compiled: [],
    summary: {
      total: count(groups) + count(failures) + 2,
      changed: count(groups),
      new: 0,
      unchanged: 1,
      unaffected: 1,
      failed: count(failures),
      not_compiled: 0,
    },
  };
}

function groupOf(diff: string, certnames: string[] = ['web1.example'], headline = 'File[/etc/x] content'): Group {
  return {
    count: certnames.length,
    certnames,
    is_new: false,
    headline,
    counts: { added: 0, removed: 0, changed: 1 },
    change: {
      resources: [
        {
          resource: 'File[/etc/x]',
          change: 'changed',
          parameters: [
            { name: 'mode', change: 'changed', sensitive: false, from: '0644', to: '0600' },
            { name: 'password', change: 'changed', sensitive: true },
          ],
          contents: [{ path: '/etc/x', change: 'changed', diff }],
          other: [],
        },
      ],
      refreshed: [{ resource: 'Service[x]', because: 'File[/etc/x]' }],
      order_changed: false,
      edges_changed: false,
      other: [],
    },
  };
}

test('a plan as a comment', () => {
  const failure = { count: 1, certnames: ['db1.example'], message: 'Syntax error at <x>', file: 'site.pp', line: 3 };
  expect(
    planMarkdown(planOf([groupOf('@@ -1,1 +1,1 @@\n-a\n+b\n', ['web1.example', 'web2.example'])], [failure])),
  ).toBe(`### Callboard plan: \`production\`, code ababababab (commit cdcdcdcdcd)

**2 nodes change, 1 does not compile, 1 unchanged, 1 unaffected (not compiled anew)**, of 5 nodes.

#### ❌ 1 node: does not compile
db1.example

\`\`\`
Syntax error at <x>
site.pp:3
\`\`\`

#### 2 nodes: \`File[/etc/x] content\`
<details><summary>web1.example, web2.example</summary>

\`\`\`diff
! File[/etc/x]
!   mode: "0644" → "0600"
!   password: [sensitive] → [sensitive]
    content of /etc/x:
@@ -1,1 +1,1 @@
-a
+b
  Service[x] refreshed because of File[/etc/x]
\`\`\`
</details>
`);
});

test('what does not fit is cut, and said to be', () => {
  const long = `@@ -1,1 +1,9999 @@\n${'+a line of some length\n'.repeat(9999)}`;
  const one = planMarkdown(planOf([groupOf(long)]));
  expect(one.length).toBeGreaterThan(60_000);
  expect(one.length).toBeLessThanOrEqual(65_536);
  expect(one).toContain(
    '1 of the changes is not shown whole. See all of it with: `callboard plan production --code ababababab`',
  );
  const many = Array.from({ length: 3000 }, (_, n) => groupOf(`-${n}\n+${'x'.repeat(n)}\n`, [`web${n}.example`]));
  const text = planMarkdown(planOf(many));
  expect(text.length).toBeLessThanOrEqual(65_536);
  expect(text).toMatch(/\d+ more groups \(\d+ nodes\) are left out\./);
});

test('any plan fits, and nothing in it breaks out of its block', () => {
  const text = fc.oneof(
    fc.string({ maxLength: 40 }),
    fc.constantFrom('```', '````\n</details>', '`', '<script>', '| a | b |', '@team', '~~~', '&lt;'),
  );
  const groups = fc.array(
    fc.record({
      diff: fc.array(text, { maxLength: 30 }).map((lines) => lines.map((line) => `+${line}`).join('\n')),
      names: fc.array(text, { minLength: 1, maxLength: 30 }),
      headline: text,
    }),
    { maxLength: 20 },
  );
  fc.assert(
    fc.property(groups, fc.integer({ min: 1500, max: 20_000 }), (made, max) => {
      const markdown = planMarkdown(planOf(made.map((each) => groupOf(each.diff, each.names, each.headline))), max);
      expect(markdown.length).toBeLessThanOrEqual(max);
      expect(outsideBlocks(markdown)).not.toContain('<script>');
      expect(markdown.match(/<details>/g)?.length ?? 0).toBe(
        outsideBlocks(markdown).match(/^<\/details>$/gm)?.length ?? 0,
      );
    }),
  );
});

/** The lines outside of fenced blocks and of code in lines, as a reader of Markdown finds them; fails when a block stays open. */
function outsideBlocks(markdown: string): string {
  const outside: string[] = [];
  let fence: string | undefined;
  for (const line of markdown.split('\n')) {
    const found = /^(`{3,})(diff)?$/.exec(line);
    if (fence === undefined && found) fence = found[1];
    else if (fence !== undefined && line === fence) fence = undefined;
    else if (fence === undefined) outside.push(line.replaceAll(/(`+).*?[^`]\1(?!`)/g, ''));
  }
  expect(fence).toBeUndefined();
  return outside.join('\n');
}
