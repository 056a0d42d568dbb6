# A password rotation that loses no lookup. Put the new password into pillar, then run `salt-run ispmail.rotate`, which
# runs this file. Each step of a site requires the one before it. If a step fails, the site keeps the old password
# valid; run it again to continue. A failed site does not stop the others.
#
# ispmail:sites in the master's configuration lists the servers, see docs/master.conf.
{#- With a number, state.apply waits for a run in progress. On 3008, True only queues the job, and False fails. #}
{%- set queue = 100 %}
{#- Salt's own default of 5 s lets a slow master publish a step twice. #}
{%- set timeout = 30 %}
{%- set batch = salt['pillar.get']('ispmail:rotation:batch', '25%') %}
{%- set sites = salt['saltutil.runner']('ispmail.sites', kwarg={'batch': batch}) %}
{%- if sites is not mapping %}

A rotation can begin:
  test.fail_without_changes:
    - comment: {{ (sites | string).partition('\n\nUsage:')[0].split('SaltInvocationError: ') | last | json }}
{%- set sites = {} %}
{%- endif %}
{%- for site, who in sites.items() %}
{%- if who['faults'] %}

A rotation can begin in {{ site }}:
  test.fail_without_changes:
    - comment: {{ who['faults'] | join('\n') | json }}
{%- else %}
{%- set steps = ['Nobody holds the password unless pillar names it in ' ~ site] %}

{{ steps[0] }}:
  salt.runner:
    - name: ispmail.holders
    - site: {{ site | json }}
    - refresh: {{ (not loop.first) | json }}  # for the first site ispmail.sites has just done that
{%- do steps.append('The new password is accepted next to the old one in ' ~ site) %}

{{ steps[1] }}:
  salt.state:
    - tgt: {{ who['database'] | json }}
    - tgt_type: list
    - sls: ispmail.credential_accepted
    - queue: {{ queue }}
    - timeout: {{ timeout }}
    - require:
      - salt: {{ steps[0] }}
{%- for servers in [who['canary']] + who['batches'] %}
{%- set those = 'The canary takes' if loop.first else 'Batch ' ~ loop.index0 ~ ' of ' ~ (loop.length - 1) ~ ' takes' %}
{%- set step = those ~ ' the new password in ' ~ site %}

{{ step }}:
  salt.state:
    - tgt: {{ servers | json }}
    - tgt_type: list
    - sls: ispmail.drained
    - queue: {{ queue }}
    - timeout: {{ timeout }}
    - require:
      - salt: {{ steps[-1] }}
{%- do steps.append(step) %}
{%- endfor %}

Every server is seen to use the new password in {{ site }}:
  salt.runner:
    - name: ispmail.prove
    - site: {{ site | json }}
    - require:
      - salt: {{ steps[-1] }}
{%- do steps.append('Every server is seen to use the new password in ' ~ site) %}

The old password is dropped in {{ site }}:
  salt.state:
    - tgt: {{ who['database'] | json }}
    - tgt_type: list
    - sls: ispmail.credential_sole
    - queue: {{ queue }}
    - timeout: {{ timeout }}
    - require:
      - salt: {{ steps[-1] }}
{%- do steps.append('The old password is dropped in ' ~ site) %}

How to go on in {{ site }}:
  test.fail_without_changes:
{%- set skipped = ' Skipped, because they did not answer: ' ~ who['down'] | join(', ') ~ '.' if who['down'] else '' %}
{#- The name of a minion may hold anything but a slash. #}
    - comment: {{ ('The password in use before is still accepted. Fix what failed (see above) and rotate again, which '
        ~ 'goes on from there.' ~ skipped ~ ' A server that is gone for good can be named in ispmail:sites:' ~ site
        ~ ':without.') | json }}
    - onfail_any:
{%- for step in steps %}
      - salt: {{ step }}
{%- endfor %}
{%- endif %}
{%- endfor %}
