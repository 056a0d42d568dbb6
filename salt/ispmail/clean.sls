# Undo ispmail.maps: take the tables out of main.cf, then delete the table files. Packages and the rest of main.cf stay.
include:
  - ispmail.modules
{%- for key in ['ispmail', salt['pillar.get']('ispmail:instances')] | flatten | select('string') | select('match', '[A-Za-z0-9_.-]+\\Z') | list | unique %}

Postfix asks none of the maps that pillar names{{ '' if key == 'ispmail' else ' in ' ~ key }}:
  postfix_map.absent:
    - pillar: {{ key | json }}
{%- endfor %}
