# Install Postfix, a package for each table type in use, and PyMySQL for the Python that runs Salt, unless all maps are
# PostgreSQL's. A server whose maps are all null gets no Postfix: only other programs log in there.
{%- from 'ispmail/types.jinja' import types, needs_pymysql with context %}
{%- set ispmail = salt['pillar.get']('ispmail') or {} %}
{%- if ispmail is mapping and ispmail.get('packages', True) %}
{%- set system_python = grains['pythonexecutable'].startswith('/usr/bin/') %}
{%- set packages = [] %}
{%- if types %}
{%- do packages.append('postfix') %}
{%- for type in types %}
{%- do packages.append('postfix-' ~ type) %}
{%- endfor %}
{%- endif %}
{%- if needs_pymysql and system_python %}
{%- do packages.append('python3-pymysql') %}
{%- endif %}
{%- if packages %}

Postfix and its table types are installed:
  pkg.installed:
    - pkgs: {{ packages | json }}
    - reload_modules: {{ system_python | json }}
    - require_in:
      - sls: ispmail.maps
{%- endif %}
{%- if needs_pymysql and not system_python %}
{%- set found = [] %}
{%- for path in grains['pythonpath'] if salt['file.directory_exists'](path ~ '/pymysql') %}
{%- do found.append(path) %}
{%- endfor %}
{%- if not found %}

PyMySQL is installed for Salt's Python:
  pip.installed:
    - name: PyMySQL>=1.1,<1.3
    - bin_env: {{ grains['pythonexecutable'] | json }}
    - reload_modules: True
{%- endif %}
{%- endif %}
{%- endif %}
